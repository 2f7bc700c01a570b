//! Writing frames: answers, what is open, what is settled.

use super::{Open, SledDisk, UNSYNCED_BYTES_MAX, token_bytes, words};
use crate::commit::bucket::Bucket;
use crate::record::{AnswerKept, CallRecord, Record, State};
use crate::sled::frame::{Kind, Whole};
use crate::sled::page::Position;
use crate::{Answer, KeyDigest, StoreError, Timestamp, codec, transition};

// === impl SledDisk ===

impl SledDisk {
    /// Puts the answer that came with a record where answers lie, and notes in the record where.
    pub(super) fn put_answer(
        &mut self,
        key: KeyDigest,
        record: &mut Record,
        bucket: Bucket,
    ) -> Result<(), String> {
        let Record::Call(call) = record else {
            return Ok(());
        };
        let Some(AnswerKept::Here(answer)) = kept(call).cloned() else {
            return Ok(());
        };
        let whole = Whole::of(key, call, &answer).ok_or("an answer has less than 4 GiB")?;
        let sum = whole.sum(answer.body());
        let head = Kind::Answer.head(sum.len() + answer.body().len())?;
        let group = self.group + 1;
        let pages = self.recent_pages(bucket)?;
        let at = pages.append(&[&head, &sum, answer.body()])?;
        // An answer that nothing refers to is harmless, so these pages need not wait.
        self.unsynced += pages.insert_full(group)?;
        set_beside(call, &whole, at);
        self.sync_if_much()
    }

    pub(super) fn settle(&mut self, key: KeyDigest, mut record: Record) -> Result<(), String> {
        let bucket = Bucket::of(&record, self.width).ok_or("a settled record has a bucket")?;
        self.put_answer(key, &mut record, bucket)?;
        let record = codec::encode(&record);
        let head = Kind::Settled.head(32 + record.len())?;
        let settled = self.settled_in(bucket)?;
        let at = settled.pages.append(&[&head, key.as_bytes(), &record])?;
        settled.located.insert(key, at);
        if let Some(open) = self.open.remove(&key)
            && open.latest > bucket
        {
            self.outliving.push((key, open));
        }
        Ok(())
    }

    pub(super) fn put_open(
        &mut self,
        key: KeyDigest,
        mut record: Record,
        now: Timestamp,
    ) -> Result<(), String> {
        let width = self.width;
        let bucket = *self
            .open_bucket
            .get_or_insert_with(|| Bucket::at(now.plus(transition::CLOCK_DIFFERENCE_MAX), width));
        let before = self.open.get(&key).map(|open| (open.bucket, open.latest));
        if let (Record::Call(call), Some((kept_in, _))) = (&mut record, before)
            && kept_in != bucket
            && matches!(kept(call), Some(AnswerKept::Beside { .. }))
        {
            let answer = self.answer_in(kept_in, key, call).map_err(words)?;
            let answer = answer.ok_or("the answer that is kept with a doubt is missing")?;
            set_here(call, answer);
        }
        self.put_answer(key, &mut record, bucket)?;
        let token = record.call().ok_or("what is open is a call")?.token;
        let bytes = codec::encode(&record);
        let head = Kind::Open.head(32 + 16 + bytes.len())?;
        let group = self.group + 1;
        let pages = self.recent_pages(bucket)?;
        pages.append(&[&head, key.as_bytes(), &token_bytes(token), &bytes])?;
        self.unsynced += pages.insert_full(group)?;
        let latest = before.map_or(bucket, |(_, latest)| latest.max(bucket));
        let open = Open {
            record,
            bucket,
            latest,
        };
        self.open.insert(key, open);
        Ok(())
    }

    /// Keeps what lies between two syncs small beside a segment of sled's log: where it fills
    /// several, a power cut may leave a later one without an earlier one, and sled then throws the
    /// whole log away.
    pub(super) fn sync_if_much(&mut self) -> Result<(), String> {
        if self.unsynced >= UNSYNCED_BYTES_MAX {
            self.point.commit(&self.db).map_err(words)?;
            self.unsynced = 0;
        }
        Ok(())
    }

    pub(super) fn close_claim(&mut self, key: KeyDigest, open: &Open) -> Result<(), String> {
        let token = open.record.call().ok_or("what is open is a call")?.token;
        let head = Kind::Closed.head(32 + 16)?;
        self.recent_pages(open.latest)?
            .append(&[&head, key.as_bytes(), &token_bytes(token)])?;
        Ok(())
    }

    pub(super) fn answer_in(
        &self,
        bucket: Bucket,
        key: KeyDigest,
        call: &CallRecord,
    ) -> Result<Option<Answer>, StoreError> {
        let Some(&AnswerKept::Beside { format, length, at }) = kept(call) else {
            return Ok(None);
        };
        let whole = Whole {
            key,
            token: call.token,
            format,
            length,
        };
        let (Some(pages), Some(at)) = (self.recent.get(&bucket), Position::from_number(at)) else {
            return Ok(None);
        };
        match pages.read(at)? {
            None => Ok(None),
            Some(mut reader) => whole.read(&mut reader),
        }
    }
}

const fn kept(call: &CallRecord) -> Option<&AnswerKept> {
    match &call.state {
        State::Completed { answer, .. } => Some(answer),
        State::InDoubt { answer, .. } => answer.as_ref(),
        State::InProgress { .. } => None,
    }
}

/// How much of a record lies beside it.
pub(super) fn answer_bytes(record: &Record) -> usize {
    match record.call().and_then(kept) {
        Some(AnswerKept::Beside { length, .. }) => *length as usize,
        _ => 0,
    }
}

fn set_beside(call: &mut CallRecord, whole: &Whole, at: Position) {
    set_kept(
        call,
        AnswerKept::Beside {
            format: whole.format,
            length: whole.length,
            at: at.to_number(),
        },
    );
}

fn set_here(call: &mut CallRecord, answer: Answer) {
    set_kept(call, AnswerKept::Here(answer));
}

fn set_kept(call: &mut CallRecord, kept: AnswerKept) {
    match &mut call.state {
        State::Completed { answer, .. } => *answer = kept,
        State::InDoubt { answer, .. } => *answer = Some(kept),
        State::InProgress { .. } => {}
    }
}
