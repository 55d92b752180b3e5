//! What `cargo metadata` says about the workspace: crates, their direct dependencies, their binaries.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// For whom a dependency is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Normal,
    Build,
    Test,
}

/// One crate of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Crate {
    pub(crate) name: String,
    pub(crate) dependencies: Vec<(String, Use)>,
    pub(crate) binaries: Vec<String>,
}

/// Returns the root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the root")
}

/// Returns where cargo puts what it builds.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = metadata()?;
    Ok(metadata["target_directory"].as_str().context("cargo metadata names no target directory")?.into())
}

/// Returns every crate of the workspace, sorted by name.
pub(crate) fn load() -> Result<Vec<Crate>> {
    let metadata = metadata()?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let mut crates = packages.iter().map(read_crate).collect::<Result<Vec<_>>>()?;
    crates.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(crates)
}

fn metadata() -> Result<Value> {
    let output = Command::new(cargo())
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .context("cargo metadata does not start")?;
    if !output.status.success() {
        bail!("cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Returns the cargo that runs us, or the one on the path.
pub(crate) fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

fn read_crate(package: &Value) -> Result<Crate> {
    let name = package["name"].as_str().context("a package without a name")?.to_owned();
    let list = |key: &str| package[key].as_array().cloned().unwrap_or_default();
    let dependencies = list("dependencies").iter().map(read_dependency).collect::<Result<_>>()?;
    let is_binary =
        |target: &Value| target["kind"].as_array().is_some_and(|kinds| kinds.contains(&"bin".into()));
    let targets = list("targets");
    let binaries = targets.iter().filter(|target| is_binary(target));
    let binaries = binaries.filter_map(|target| Some(target["name"].as_str()?.to_owned())).collect();
    Ok(Crate { name, dependencies, binaries })
}

fn read_dependency(dependency: &Value) -> Result<(String, Use)> {
    let name = dependency["name"].as_str().context("a dependency without a name")?;
    let purpose = match dependency["kind"].as_str() {
        None => Use::Normal,
        Some("build") => Use::Build,
        Some("dev") => Use::Test,
        Some(other) => bail!("cargo metadata knows a dependency kind we do not: {other}"),
    };
    Ok((name.to_owned(), purpose))
}
