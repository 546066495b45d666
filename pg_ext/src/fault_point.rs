//! Places where a worker can be made to die, for the tests that show that its death loses nothing. Only a build with
//! the feature `fault-points` has them, and there the setting `tandem.fault_point` says where.

/// A place, between two things that a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "fault-points", derive(pgrx::PostgresGucEnum))]
pub enum Point {
    /// Nowhere.
    #[cfg(feature = "fault-points")]
    Nowhere,
    /// Redis knows the link, and nothing was compared yet.
    Attached,
    /// A page of differing ids has reached Postgres, and its answers have not reached Redis.
    CheckPulled,
    /// A page of differing ids was mended, and more may follow.
    CheckMended,
    /// Everything was compared and mended, and the link's row does not say so.
    Checked,
    /// Revisions have come from Redis.
    Pulled,
    /// They are joined in a transaction that has not committed.
    JoinUncommitted,
    /// They are committed, and Redis does not know.
    JoinCommitted,
    /// Redis has forgotten them.
    Acknowledged,
    /// A part of the log was read.
    LogRead,
    /// Of what is to go to Redis a command has gone, and more may follow.
    PushPart,
    /// It is in Redis, and the position in the log is the old one.
    Pushed,
    /// A dead letter is written in a transaction that has not committed.
    SetAside,
    /// A dead letter was pushed again, and it is in the table still.
    LetterPushed,
    /// The log is folded in a transaction that has not committed.
    FoldUncommitted,
    /// The log's slots are moved on in a transaction that has not committed.
    RotationUncommitted,
    /// Old tombstones are dropped in a transaction that has not committed.
    ForgettingUncommitted,
}

#[cfg(feature = "fault-points")]
mod setting {
    use super::Point;
    use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

    static CHOSEN: GucSetting<Point> = GucSetting::<Point>::new(Point::Nowhere);

    /// Defines the setting.
    pub fn define() {
        GucRegistry::define_enum_guc(
            c"tandem.fault_point",
            c"Where a worker of tandem dies, as if it was killed",
            c"",
            &CHOSEN,
            GucContext::Sighup,
            GucFlags::default(),
        );
    }

    /// Ends the process if this is the place that was chosen.
    pub fn reach(point: Point) {
        // SAFETY: a plain read of the process' own entry.
        let is_worker = unsafe { !pgrx::pg_sys::MyBgworkerEntry.is_null() };
        if is_worker && CHOSEN.get() == point {
            pgrx::log!("tandem fault point {point:?}");
            std::process::abort();
        }
    }
}

#[cfg(feature = "fault-points")]
pub use setting::{define, reach};

/// Nothing, in a build without the feature.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn reach(_: Point) {}

/// Nothing, in a build without the feature.
#[cfg(not(feature = "fault-points"))]
pub fn define() {}
