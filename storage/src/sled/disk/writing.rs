//! Applying changes: to memory, to pages in memory, and to the group that goes to the log.

use super::{ANSWERS, Known, SETTLED, Settled};
use crate::commit::Change;
use crate::commit::bucket::Bucket;
use crate::record::{AnswerKept, Record};
use crate::sled::cause::Cause;
use crate::sled::frame::{Kind, Whole};
use crate::sled::located::Located;
use crate::sled::log::GroupBytes;
use crate::sled::page::{Pages, Position};
use crate::{Answer, KeyDigest};

// === impl Known ===

impl Known {
    /// Applies a change, and says so in the group.
    pub(super) fn apply(&mut self, change: Change, group: &mut GroupBytes) -> Result<(), Cause> {
        let Change { key, before, after } = change;
        if before.as_ref().is_some_and(is_in_its_bucket) {
            return Err("a settled record never changes".into());
        }
        let Some(mut record) = after else {
            self.open.remove(key);
            group.removed(key);
            return Ok(());
        };
        if is_in_its_bucket(&record) {
            // What lies with an open call has to go where answers lie.
            self.bring_answer(key, &mut record)?;
        }
        self.put(key, record, group)
    }

    /// Puts a record where it belongs. An answer that is in it goes there too, and into the group.
    pub(super) fn put(
        &mut self,
        key: KeyDigest,
        mut record: Record,
        group: &mut GroupBytes,
    ) -> Result<(), Cause> {
        let answer = answer_here(&record);
        let body = answer.as_ref().map(|answer| &answer.body()[..]);
        if is_in_its_bucket(&record) {
            let bucket = Bucket::of(&record, self.width).ok_or("a settled record has a bucket")?;
            let bucket = self.unremoved(bucket);
            if let Some(answer) = &answer {
                self.put_answer(key, &mut record, answer, bucket)?;
            }
            let bytes = group.record(key, &record, body)?;
            self.put_settled(key, group.at(bytes), bucket)?;
            self.open.remove(key);
        } else {
            if let Some(answer) = &answer {
                let whole = whole(key, &record, answer)?;
                set_beside(&mut record, &whole, NOWHERE);
            }
            group.record(key, &record, body)?;
            self.open.put(key, record, answer);
        }
        Ok(())
    }

    /// Puts the answer of a call that was open into its record.
    pub(super) fn bring_answer(&self, key: KeyDigest, record: &mut Record) -> Result<(), Cause> {
        let Record::Call(call) = record else {
            return Ok(());
        };
        if !matches!(call.kept(), Some(AnswerKept::Beside { .. })) {
            return Ok(());
        }
        let answer = self.open.answer(key, call)?;
        let answer = answer.ok_or("the answer that is kept with a doubt is missing")?;
        if let Some(kept) = call.kept_mut() {
            *kept = AnswerKept::Here(answer);
        }
        Ok(())
    }

    /// Puts an answer on the pages of its bucket, and notes in the record where.
    fn put_answer(
        &mut self,
        key: KeyDigest,
        record: &mut Record,
        answer: &Answer,
        bucket: Bucket,
    ) -> Result<(), Cause> {
        let whole = whole(key, record, answer)?;
        let sum = whole.sum(answer.body());
        let head = Kind::Answer.head(sum.len() + answer.body().len())?;
        let pages = self.answers_in(bucket)?;
        let at = pages.append(&[&head, &sum, answer.body()])?;
        set_beside(record, &whole, at);
        Ok(())
    }

    /// Puts a settled record on the pages of its bucket.
    fn put_settled(&mut self, key: KeyDigest, record: &[u8], bucket: Bucket) -> Result<(), Cause> {
        let head = Kind::Settled.head(32 + record.len())?;
        let settled = self.settled_in(bucket)?;
        let at = settled.pages.append(&[&head, key.as_bytes(), record])?;
        settled.located.insert(key, at);
        Ok(())
    }

    /// A bucket that was removed has still a file of its name for a while. A clock that was set
    /// back by more than a horizon needs it again, and gets another.
    fn unremoved(&self, mut bucket: Bucket) -> Bucket {
        while self.removed.contains(&bucket) {
            bucket = bucket.again();
        }
        bucket
    }

    fn answers_in(&mut self, bucket: Bucket) -> Result<&mut Pages, Cause> {
        if !self.answers.contains_key(&bucket) {
            let pages = Pages::new(self.file(ANSWERS, bucket)?, 0);
            crate::kill_point!("disk: bucket of answers made, nothing in it");
            self.answers.insert(bucket, pages);
        }
        self.answers
            .get_mut(&bucket)
            .ok_or_else(|| "a bucket that was just made is gone".into())
    }

    fn settled_in(&mut self, bucket: Bucket) -> Result<&mut Settled, Cause> {
        if !self.settled.contains_key(&bucket) {
            let pages = Pages::new(self.file(SETTLED, bucket)?, 0);
            crate::kill_point!("disk: settled bucket made, nothing in it");
            let settled = Settled::new(pages, Located::new());
            self.settled.insert(bucket, settled);
        }
        self.settled
            .get_mut(&bucket)
            .ok_or_else(|| "a bucket that was just made is gone".into())
    }
}

/// Whether it lies with the settled records of its day, and never changes. What is held for a
/// session mostly goes within a moment, so it lies with what is open.
const fn is_in_its_bucket(record: &Record) -> bool {
    record.is_settled() && !record.is_held()
}

/// The answer that is in a record.
fn answer_here(record: &Record) -> Option<Answer> {
    match record.call()?.kept()? {
        AnswerKept::Here(answer) => Some(answer.clone()),
        AnswerKept::Beside { .. } | AnswerKept::Gone => None,
    }
}

fn whole(key: KeyDigest, record: &Record, answer: &Answer) -> Result<Whole, Cause> {
    let call = record.call().ok_or("only a call has an answer")?;
    Whole::of(key, call, answer).ok_or_else(|| "an answer has less than 4 GiB".into())
}

fn set_beside(record: &mut Record, whole: &Whole, at: Position) {
    if let Record::Call(call) = record
        && let Some(kept) = call.kept_mut()
    {
        *kept = AnswerKept::Beside {
            format: whole.format,
            length: whole.length,
            at: at.to_number(),
        };
    }
}

/// The answer of an open call is found by its key.
const NOWHERE: Position = Position { page: 0, offset: 0 };
