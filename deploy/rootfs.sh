#!/usr/bin/env bash
# Gathers what the image holds in deploy/rootfs: the two programs, the shared libraries they name, and an empty directory
# for data. So the image needs no base image, and has no shell.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target="${CARGO_TARGET_DIR:-target}"
root=deploy/rootfs
rm -rf "$root"
mkdir -p "$root/data/db" "$root/data/peer" "$root/tmp"
for program in z4 z4t; do
  install -m 0755 "$target/release/$program" "$root/$program"
  strip --strip-all "$root/$program"
done
# Paths as the loader will look for them: "name => path (address)" or "path (address)".
ldd "$target/release/z4" "$target/release/z4t" | grep -o '/[^ ]*lib[^ ]*' | sort -u | while read -r library; do
  install -D -m 0755 "$(readlink -f "$library")" "$root$library"
done
