//! Background turns in a database.

use antiphon_protocol::id::{ProjectId, ResponseId};
use async_trait::async_trait;
use uuid::Uuid;

use super::events::StoredEvents;
use super::statements::{
    self, BEGIN, CLAIM, EVENTS, HIDE, LEASE_COLUMNS, LIST_ABANDONED, LIST_CANCELLED, LIST_OWNED, LOAD,
    PROGRESS, PURGE_EVENTS, PURGE_TURNS, QUEUE, RELEASE, RENEW, REQUEST, REQUEST_CANCEL, SET_UPSTREAM,
    TURN_COLUMNS, lease_of, log_events, of_lease, row,
};
use super::{
    Background, BackgroundEnd, BackgroundRequest, BackgroundTurn, Claimable, EventChunk, NewBackgroundTurn,
    QueueLimits, TurnLease, TurnProgress, UpstreamTurn, sequence,
};
use crate::sql::{
    Columns, Database, Kind, Query, Statement, bytes, id, number, optional_bytes, optional_text, text,
};
use crate::{Appended, StoreError, Timestamp, checksum};

/// How many chunks of events are read at once. An event may be as long as a whole reply.
const EVENT_CHUNKS: i64 = 2;

#[async_trait]
impl<D: Database> Background for D {
    async fn queue_background(
        &self,
        turn: NewBackgroundTurn,
        limits: QueueLimits,
    ) -> Result<bool, StoreError> {
        let size_bytes = turn.size_bytes();
        let TurnLease { project, id: response, owner, .. } = turn.lease.clone();
        let last = turn.event.as_ref().map_or(-1, |event| sequence(event.last));
        let BackgroundRequest { body, headers, input } = &turn.request;
        let request_checksum = checksum::of_request(&project, response, body, input.as_deref());
        let queued_checksum = checksum::of_queued(&project, response, headers, &turn.response);
        let arguments = vec![
            id(response.uuid()),
            text(project.as_str()),
            number(statements::streamed_code(turn.is_streamed, turn.hides_reasoning)),
            number(i64::from(turn.is_stored)),
            optional_text(turn.key),
            number(turn.created_at.unix_ms()),
            number(turn.deadline.unix_ms()),
            bytes(turn.request.body.into()),
            text(turn.request.headers),
            optional_bytes(turn.request.input.map(Into::into)),
            bytes(turn.response.into()),
            id(owner),
            number(turn.lease_until.unix_ms()),
            number(last),
            number(sequence(size_bytes)),
            number(request_checksum),
            number(queued_checksum),
            number(sequence(limits.turns)),
            number(sequence(limits.bytes.saturating_sub(size_bytes))),
        ];
        let mut queue = Statement::new(QUEUE, arguments);
        if let Some(event) = &turn.event {
            queue = queue.then(log_events(&turn.lease, event));
        }
        if let Some(lock) = turn.lock {
            queue = queue.then(lock.renewal(turn.deadline));
        }
        self.group().execute(queue).await
    }

    async fn load_background(
        &self,
        project: &ProjectId,
        response: ResponseId,
    ) -> Result<Option<BackgroundTurn>, StoreError> {
        let arguments = vec![id(response.uuid()), text(project.as_str())];
        let rows =
            self.query_for(Some(project), Query { text: LOAD, arguments, columns: &TURN_COLUMNS }).await?;
        rows.into_iter().next().map(|columns| row(project, response, columns)).transpose()
    }

    async fn load_progress(
        &self,
        project: &ProjectId,
        response: ResponseId,
    ) -> Result<Option<TurnProgress>, StoreError> {
        let arguments = vec![id(response.uuid()), text(project.as_str())];
        let query = Query { text: PROGRESS, arguments, columns: &[Kind::Number, Kind::Number] };
        let progress = |mut row: Columns| {
            let last_sequence = u64::try_from(row.number()?).ok();
            Ok(TurnProgress { last_sequence, has_ended: row.optional_number().is_some() })
        };
        self.query_for(Some(project), query).await?.into_iter().next().map(progress).transpose()
    }

    async fn load_background_request(
        &self,
        project: &ProjectId,
        response: ResponseId,
        now: Timestamp,
    ) -> Result<Option<BackgroundRequest>, StoreError> {
        let arguments = vec![id(response.uuid()), text(project.as_str()), number(now.unix_ms())];
        let columns = &[Kind::Bytes, Kind::Text, Kind::Bytes, Kind::Number];
        let rows = self.query_for(Some(project), Query { text: REQUEST, arguments, columns }).await?;
        let request = |mut row: Columns| {
            let body = row.optional_bytes().unwrap_or_default();
            let (headers, input) = (row.text()?, row.optional_bytes());
            let found = checksum::of_request(project, response, &body, input.as_deref());
            checksum::verify(found, row.optional_number())
                .map_err(|_| StoreError::Corrupt(format!("the request of {response} is damaged")))?;
            Ok(BackgroundRequest { body: body.into(), headers, input: input.map(Into::into) })
        };
        rows.into_iter().next().map(request).transpose()
    }

    async fn begin_background(&self, lease: &TurnLease) -> Result<bool, StoreError> {
        self.group().execute(Statement::new(BEGIN, of_lease(lease))).await
    }

    async fn renew_leases(&self, owner: Uuid, until: Timestamp) -> Result<(), StoreError> {
        let arguments = vec![number(until.unix_ms()), id(owner)];
        self.group().execute(Statement::new(RENEW, arguments)).await.map(|_| ())
    }

    async fn list_owned(
        &self,
        owner: Uuid,
        after: Option<ResponseId>,
        max_rows: u32,
    ) -> Result<Vec<TurnLease>, StoreError> {
        let after = after.map_or(Uuid::nil(), ResponseId::uuid);
        let arguments = vec![id(owner), id(after), number(i64::from(max_rows))];
        let rows = self.query(Query { text: LIST_OWNED, arguments, columns: &LEASE_COLUMNS }).await?;
        rows.into_iter().map(lease_of).collect()
    }

    async fn release_lease(&self, lease: &TurnLease) -> Result<bool, StoreError> {
        self.group().execute(Statement::new(RELEASE, of_lease(lease))).await
    }

    async fn list_claimable(
        &self,
        owner: Uuid,
        which: Claimable,
        now: Timestamp,
        max_rows: u32,
    ) -> Result<Vec<TurnLease>, StoreError> {
        let arguments =
            vec![number(now.unix_ms()), number(which.flag()), id(owner), number(i64::from(max_rows))];
        let rows = self.query(Query { text: LIST_ABANDONED, arguments, columns: &LEASE_COLUMNS }).await?;
        rows.into_iter().map(lease_of).collect()
    }

    async fn claim_background(
        &self,
        from: &TurnLease,
        owner: Uuid,
        which: Claimable,
        (now, until): (Timestamp, Timestamp),
    ) -> Result<Option<TurnLease>, StoreError> {
        let mut arguments = vec![id(owner), number(until.unix_ms())];
        arguments.extend(of_lease(from));
        arguments.extend([number(now.unix_ms()), number(which.flag())]);
        let is_claimed = self.group().execute(Statement::new(CLAIM, arguments)).await?;
        Ok(is_claimed.then(|| TurnLease { owner, epoch: from.epoch + 1, ..from.clone() }))
    }

    async fn append_events(&self, lease: &TurnLease, events: EventChunk) -> Result<bool, StoreError> {
        let mut arguments = vec![number(sequence(events.last))];
        arguments.extend(of_lease(lease));
        let append = Statement::new(statements::APPEND, arguments).then(log_events(lease, &events));
        self.group().execute(append).await
    }

    async fn list_events(
        &self,
        project: &ProjectId,
        response: ResponseId,
        after: Option<u64>,
    ) -> Result<Vec<EventChunk>, StoreError> {
        let arguments = vec![
            id(response.uuid()),
            text(project.as_str()),
            number(after.map_or(-1, sequence)),
            number(EVENT_CHUNKS),
        ];
        let columns = &[Kind::Number, Kind::Number, Kind::Bytes, Kind::Number];
        let rows = self.query_for(Some(project), Query { text: EVENTS, arguments, columns }).await?;
        rows.into_iter().map(|row| StoredEvents::of(row)?.decode(project, response)).collect()
    }

    async fn set_upstream_turn(&self, lease: &TurnLease, upstream: UpstreamTurn) -> Result<bool, StoreError> {
        let mut arguments = vec![text(upstream.account), optional_text(upstream.id)];
        arguments.extend(of_lease(lease));
        self.group().execute(Statement::new(SET_UPSTREAM, arguments)).await
    }

    async fn request_cancel(&self, project: &ProjectId, response: ResponseId) -> Result<bool, StoreError> {
        let arguments = vec![id(response.uuid()), text(project.as_str())];
        self.group().execute(Statement::new(REQUEST_CANCEL, arguments)).await
    }

    async fn list_cancel_requested(&self, owner: Uuid) -> Result<Vec<ResponseId>, StoreError> {
        let query = Query { text: LIST_CANCELLED, arguments: vec![id(owner)], columns: &[Kind::Id] };
        let rows = self.query(query).await?;
        rows.into_iter().map(|mut row| row.id().map(ResponseId::from_uuid)).collect()
    }

    async fn end_background(&self, end: BackgroundEnd) -> Result<Option<Appended>, StoreError> {
        self.group().end_background(end).await
    }

    async fn hide_background(
        &self,
        project: &ProjectId,
        response: ResponseId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let arguments = vec![number(now.unix_ms()), id(response.uuid()), text(project.as_str())];
        self.group().execute(Statement::new(HIDE, arguments)).await
    }

    async fn purge_background(&self, now: Timestamp, max_rows: u32) -> Result<bool, StoreError> {
        let arguments = vec![number(now.unix_ms()), number(i64::from(max_rows))];
        // Both choose the same turns: which are no longer kept depends on the time alone.
        let purge = [PURGE_EVENTS, PURGE_TURNS].map(|text| Statement::new(text, arguments.clone()));
        self.group().execute_all(purge.into()).await
    }
}
