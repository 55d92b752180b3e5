//! `task list QUEUE`: the tasks of a queue by the time they are due, page by page.

use z4_client::{Client, ListTasks};

use crate::args::List;
use crate::failure::Failure;
use crate::output::{self, TaskJson};
use crate::time::format_time;

/// Tasks of one page.
const PAGE: u64 = 500;

pub(super) async fn run(client: &Client, list: List, json: bool) -> Result<(), Failure> {
    let mut left = if list.limit == 0 { u64::MAX } else { list.limit };
    let mut wish = ListTasks {
        queue: list.of,
        state: list.state.map(Into::into),
        from: list.from.map(|time| time.resolve()),
        to: list.to.map(|time| time.resolve()),
        stale: list.stale,
        filter: list.filter.unwrap_or_default(),
        ..Default::default()
    };
    let mut rows = Vec::new();
    loop {
        wish.page_size = u32::try_from(left.min(PAGE)).expect("a page is small");
        let page = client.list(wish.clone()).await?;
        if list.stale && !json {
            output::talk_of_freshness(page.freshness.as_ref());
        }
        for task in page.items.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            left -= 1;
            if json {
                output::json(&TaskJson::new(task, page.freshness.as_ref()))?;
                continue;
            }
            rows.push([
                task.id.to_string(),
                task.state.as_str().to_owned(),
                task.priority.to_string(),
                format_time(task.deliver_at),
                task.deliveries.to_string(),
                task.failures.to_string(),
                output::preview(&task.payload),
            ]);
        }
        match page.next {
            Some(next) if left > 0 => wish.page_token = next,
            Some(_) => {
                output::talk(format_args!("there are more; raise --limit to see them"));
                break;
            }
            None => break,
        }
    }
    if json {
        return Ok(());
    }
    output::table(["ID", "STATE", "PRIO", "DELIVER AT", "DELIVERIES", "FAILURES", "PAYLOAD"], &rows)
}
