//! Service `z4.v1.Schedules`: one verb, one file; this is the dispatch, and what several verbs share.
//!
//! # Not here
//! - Expressions, zones and slots: the host works them out where the schedule's shard is led.

mod create;
mod delete;
mod get;
mod history;
mod list;
mod pause;
mod run;
mod slots;
mod update;

use tonic::{Request, Response, Status, async_trait};
use z4_host::{ScheduleChange, next_slots};
use z4_proto::convert::pb_schedule_status;
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_proto::v1::schedules_server::Schedules;
use z4_tasks::ScheduleInfo;
use z4_tasks::outcome::Refusal;
use z4_types::{Kind, Millis, QueueName};

use crate::call::{Call, unary};
use crate::door::Door;
use crate::status;

/// Slots to come that are shown with a schedule, or asked for by no number.
const SLOTS_SHOWN: usize = 5;

/// See the module essay.
pub(crate) struct SchedulesService {
    door: Door,
}

impl SchedulesService {
    pub(crate) fn new(door: Door) -> Self {
        Self { door }
    }
}

#[async_trait]
impl Schedules for SchedulesService {
    async fn create_schedule(
        &self,
        request: Request<v1::CreateScheduleRequest>,
    ) -> Result<Response<v1::CreateScheduleResponse>, Status> {
        unary!(self, request, create::create)
    }

    async fn update_schedule(
        &self,
        request: Request<v1::UpdateScheduleRequest>,
    ) -> Result<Response<v1::UpdateScheduleResponse>, Status> {
        unary!(self, request, update::update)
    }

    async fn get_schedule(
        &self,
        request: Request<v1::GetScheduleRequest>,
    ) -> Result<Response<v1::GetScheduleResponse>, Status> {
        unary!(self, request, get::get)
    }

    async fn list_schedules(
        &self,
        request: Request<v1::ListSchedulesRequest>,
    ) -> Result<Response<v1::ListSchedulesResponse>, Status> {
        unary!(self, request, list::list)
    }

    async fn pause_schedule(
        &self,
        request: Request<v1::PauseScheduleRequest>,
    ) -> Result<Response<v1::PauseScheduleResponse>, Status> {
        unary!(self, request, pause::pause)
    }

    async fn resume_schedule(
        &self,
        request: Request<v1::ResumeScheduleRequest>,
    ) -> Result<Response<v1::ResumeScheduleResponse>, Status> {
        unary!(self, request, pause::resume)
    }

    async fn run_schedule(
        &self,
        request: Request<v1::RunScheduleRequest>,
    ) -> Result<Response<v1::RunScheduleResponse>, Status> {
        unary!(self, request, run::run)
    }

    async fn delete_schedule(
        &self,
        request: Request<v1::DeleteScheduleRequest>,
    ) -> Result<Response<v1::DeleteScheduleResponse>, Status> {
        unary!(self, request, delete::delete)
    }

    async fn list_slots(
        &self,
        request: Request<v1::ListSlotsRequest>,
    ) -> Result<Response<v1::ListSlotsResponse>, Status> {
        unary!(self, request, slots::list)
    }

    async fn list_schedule_history(
        &self,
        request: Request<v1::ListScheduleHistoryRequest>,
    ) -> Result<Response<v1::ListScheduleHistoryResponse>, Status> {
        unary!(self, request, history::list)
    }
}

/// Returns an answer of the host, a refusal as the failure it is to the caller.
fn accepted<T>(answer: Result<T, Refusal>) -> Result<T, Failure> {
    answer.map_err(|why| status::refusal(&why))
}

/// Makes or changes a schedule on this host; returns it as it is afterwards.
async fn set(call: Call<'_>, change: ScheduleChange) -> Result<v1::ScheduleStatus, Failure> {
    let (queue, name) = (change.queue.clone(), change.name.clone());
    accepted(call.write(call.handle().set_schedule(change)).await?)?;
    // It is done: whatever the read says, "nothing was done" would not be true.
    read(call, queue, name).await.map_err(|failure| {
        let what = format!("the schedule is set, but what it is now could not be read: {}", failure.message);
        Failure::new(Kind::OutcomeUnknown, reason::OUTCOME_UNKNOWN, what)
    })
}

/// Returns a schedule whose shard is led here.
async fn read(call: Call<'_>, queue: QueueName, name: String) -> Result<v1::ScheduleStatus, Failure> {
    let (now, info) = call.read(call.handle().schedule(queue, name)).await?;
    Ok(shown(&info, now))
}

/// Returns a schedule as its message. One that this version cannot read has no slots to come: it is paused when it tries.
fn shown(info: &ScheduleInfo, now: Millis) -> v1::ScheduleStatus {
    let ended = info.paused.is_none() && info.next.is_none();
    let slots = if ended { Vec::new() } else { next_slots(info, now, SLOTS_SHOWN).unwrap_or_default() };
    pb_schedule_status(info, &slots)
}
