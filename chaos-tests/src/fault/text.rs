//! A fault in one line, for command lines: `name:what=drop,phase=reply-sent,share=0.1`.

use std::fmt;
use std::str::FromStr;

use super::words::{Fault, Phase, Place, What};

/// Why a line is no fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultTextError(String);

impl fmt::Display for FaultTextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; a fault is written as name:what=drop,phase=reply-sent,share=0.1",
            self.0
        )
    }
}

impl std::error::Error for FaultTextError {}

/// `NAME:FIELD=VALUE,...`. `what` is needed; `where` is `wire` if it is not said. The numbers of a
/// what (`min_ms`, `max_ms`, `later_ms`, `back_after_ms`, `for_ms`, `by_ms`) and the fields of
/// [`When`](super::When) stand beside it.
///
/// ```
/// use onlyonce_chaos::fault::{Fault, What};
///
/// let slow: Fault = "slow:what=delay,min_ms=10,max_ms=50,share=0.2".parse().unwrap();
/// assert_eq!(slow.what, What::Delay { min_ms: 10, max_ms: 50 });
/// assert!("slow:what=delay,share=2".parse::<Fault>().is_err());
/// ```
impl FromStr for Fault {
    type Err = FaultTextError;

    fn from_str(text: &str) -> Result<Self, FaultTextError> {
        let wrong = |what: String| FaultTextError(what);
        let (name, fields) = text
            .split_once(':')
            .ok_or_else(|| wrong(format!("`{text}` has no `:` behind its name")))?;
        if name.trim().is_empty() {
            return Err(wrong(format!("`{text}` has no name")));
        }
        let mut given = Vec::new();
        for field in fields.split(',') {
            let (field, value) = field
                .split_once('=')
                .ok_or_else(|| wrong(format!("`{field}` is no FIELD=VALUE")))?;
            if given.iter().any(|(other, _)| *other == field) {
                return Err(wrong(format!("`{field}` is said twice")));
            }
            given.push((field, value));
        }
        let mut fields = Fields(given);
        let what = fields.what()?;
        let place = match fields.take("where") {
            None | Some("wire") => Place::Wire,
            Some("server") => Place::Server,
            Some("client") => Place::Client,
            Some("disk") => Place::Disk,
            Some("clock") => Place::Clock,
            Some(other) => return Err(wrong(format!("`where={other}` is no place"))),
        };
        if !what.fits(place) {
            return Err(wrong(format!("`{what}` cannot happen to the {place}")));
        }
        let mut fault = Self::new(name, place, what);
        fault.when.phase = match fields.take("phase") {
            None => None,
            Some(said) => {
                let found = Phase::ALL.into_iter().find(|phase| phase.name() == said);
                Some(found.ok_or_else(|| wrong(format!("`phase={said}` is no phase")))?)
            }
        };
        fault.when.share = fields.number("share")?;
        if fault
            .when
            .share
            .is_some_and(|share: f64| !(0.0..=1.0).contains(&share))
        {
            return Err(wrong("`share` is not from 0 to 1".into()));
        }
        fault.when.call = fields.number("call")?;
        fault.when.attempt = fields.number("attempt")?;
        fault.when.first_attempts = fields.number("first_attempts")?;
        fault.when.after_bytes = fields.number("after_bytes")?;
        fault.when.from_ms = fields.number("from_ms")?;
        fault.when.until_ms = fields.number("until_ms")?;
        match fields.0.first() {
            None => Ok(fault),
            Some((field, _)) => Err(wrong(format!("`{field}` is no field of `{what}`"))),
        }
    }
}

struct Fields<'a>(Vec<(&'a str, &'a str)>);

// === impl Fields ===

impl<'a> Fields<'a> {
    fn take(&mut self, field: &str) -> Option<&'a str> {
        let at = self.0.iter().position(|(name, _)| *name == field)?;
        Some(self.0.remove(at).1)
    }

    fn number<N: FromStr>(&mut self, field: &str) -> Result<Option<N>, FaultTextError> {
        let Some(value) = self.take(field) else {
            return Ok(None);
        };
        let number = value
            .parse()
            .map_err(|_| FaultTextError(format!("`{field}={value}` is no such number")))?;
        Ok(Some(number))
    }

    fn needed<N: FromStr>(&mut self, what: &str, field: &str) -> Result<N, FaultTextError> {
        let number = self.number(field)?;
        number.ok_or_else(|| FaultTextError(format!("`what={what}` needs `{field}`")))
    }

    fn what(&mut self) -> Result<What, FaultTextError> {
        let what = self
            .take("what")
            .ok_or_else(|| FaultTextError("there is no `what`".into()))?;
        Ok(match what {
            "blackhole" => What::Blackhole,
            "clock-jump" => What::ClockJump {
                by_ms: self.needed(what, "by_ms")?,
            },
            "close" => What::Close,
            "corrupt" => What::Corrupt,
            "crash" => What::Crash {
                back_after_ms: self.needed(what, "back_after_ms")?,
            },
            "delay" => {
                let (min_ms, max_ms) = (self.needed(what, "min_ms")?, self.needed(what, "max_ms")?);
                if min_ms > max_ms {
                    return Err(FaultTextError("`min_ms` is above `max_ms`".into()));
                }
                What::Delay { min_ms, max_ms }
            }
            "disk-full" => What::DiskFull,
            "drop" => What::Drop,
            "duplicate" => What::Duplicate {
                later_ms: self.number("later_ms")?.unwrap_or(0),
            },
            "packet-loss" => What::PacketLoss,
            "partition" => What::Partition,
            "pause" => What::Pause {
                for_ms: self.needed(what, "for_ms")?,
            },
            "power-cut" => What::PowerCut,
            "reset" => What::Reset,
            "sync-fails" => What::SyncFails,
            "sync-slow" => What::SyncSlow {
                for_ms: self.needed(what, "for_ms")?,
            },
            "truncate" => What::Truncate,
            other => {
                return Err(FaultTextError(format!(
                    "`what={other}` is nothing that happens"
                )));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::When;

    #[test]
    fn every_word_can_be_said_in_a_line() {
        for (text, what) in [
            ("blackhole", What::Blackhole),
            (
                "clock-jump,where=clock,by_ms=-5",
                What::ClockJump { by_ms: -5 },
            ),
            ("close", What::Close),
            ("corrupt", What::Corrupt),
            (
                "crash,where=server,back_after_ms=5",
                What::Crash { back_after_ms: 5 },
            ),
            (
                "delay,min_ms=1,max_ms=2",
                What::Delay {
                    min_ms: 1,
                    max_ms: 2,
                },
            ),
            ("disk-full,where=disk", What::DiskFull),
            ("drop", What::Drop),
            ("duplicate", What::Duplicate { later_ms: 0 }),
            ("packet-loss", What::PacketLoss),
            ("partition", What::Partition),
            ("pause,where=client,for_ms=5", What::Pause { for_ms: 5 }),
            ("power-cut,where=disk", What::PowerCut),
            ("reset", What::Reset),
            ("sync-fails,where=disk", What::SyncFails),
            (
                "sync-slow,where=disk,for_ms=5",
                What::SyncSlow { for_ms: 5 },
            ),
            ("truncate", What::Truncate),
        ] {
            let fault: Fault = format!("f:what={text}").parse().unwrap();
            assert_eq!((fault.what, fault.when), (what, When::default()), "{text}");
        }
        let text = "a b:what=drop,phase=reply-sent,share=0.5,call=3,attempt=2,first_attempts=4,\
                    from_ms=6,until_ms=7";
        let fault: Fault = text.parse().unwrap();
        let when = When {
            share: Some(0.5),
            call: Some(3),
            attempt: Some(2),
            first_attempts: Some(4),
            from_ms: Some(6),
            until_ms: Some(7),
            ..When::phase(Phase::ReplySent)
        };
        assert_eq!((fault.name.as_str(), fault.when), ("a b", when));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (text, said) in [
            ("drop", "has no `:`"),
            (":what=drop", "has no name"),
            ("f:drop", "is no FIELD=VALUE"),
            ("f:phase=reply-sent", "there is no `what`"),
            ("f:what=drip", "nothing that happens"),
            ("f:what=drop,phase=lunch", "is no phase"),
            ("f:what=drop,share=2", "not from 0 to 1"),
            ("f:what=drop,share=NaN", "not from 0 to 1"),
            ("f:what=drop,share=x", "no such number"),
            ("f:what=drop,call=-1", "no such number"),
            ("f:what=drop,later_ms=1", "`later_ms` is no field of `drop`"),
            ("f:what=drop,call=1,call=2", "said twice"),
            ("f:what=delay,min_ms=1", "needs `max_ms`"),
            ("f:what=delay,min_ms=2,max_ms=1", "above `max_ms`"),
            ("f:what=drop,where=disk", "cannot happen to the disk"),
            ("f:what=drop,where=moon", "is no place"),
        ] {
            let error = text.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
