//! Where there are no loop devices and no mount namespaces: no disk whose power can be cut.

use std::path::{Path, PathBuf};
use std::process::Command;

use onlyonce_chaos::executor::NotRun;

/// Never there.
#[derive(Debug)]
pub(in super::super) enum Disk {}

// === impl Disk ===

impl Disk {
    pub(in super::super) fn below(_: &Path) -> Result<Self, NotRun> {
        Err(NotRun::because(
            "the power of a real disk is cut on Linux only",
        ))
    }

    pub(in super::super) fn at(&self) -> PathBuf {
        match *self {}
    }

    pub(in super::super) fn enter(&self, _: &Path) -> Result<Command, NotRun> {
        match *self {}
    }

    pub(super) fn leave_unsynced(&self) -> Result<(), NotRun> {
        match *self {}
    }

    pub(super) fn cut(&self, _: impl FnOnce()) -> Result<(), NotRun> {
        match *self {}
    }

    pub(super) fn turn_on(&self) -> Result<(), NotRun> {
        match *self {}
    }

    pub(super) fn has_kept(&self) -> Result<bool, NotRun> {
        match *self {}
    }

    pub(super) fn copy_to(&self, _: &Path) -> Result<(), NotRun> {
        match *self {}
    }
}
