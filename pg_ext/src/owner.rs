//! Statements of tandem's own in books that nobody else may write, inside a function that has its caller's rights.

use pgrx::pg_sys;

/// The user and the restrictions of before.
struct Caller {
    user: pg_sys::Oid,
    context: i32,
}

impl Drop for Caller {
    fn drop(&mut self) {
        // SAFETY: what was in force before; after an error the end of the (sub)transaction does the same.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) };
    }
}

/// Runs `work` with the rights of the owner of tandem's tables. For single statements of ours with names that are
/// qualified, on tables that are tandem's alone; never for one that fires triggers of others.
pub fn as_owner<T>(work: impl FnOnce() -> T) -> T {
    let mut before = Caller { user: pg_sys::InvalidOid, context: 0 };
    // SAFETY: the table is the extension's, and closed again; the user is put back when `before` is dropped.
    let _before = unsafe {
        let schema = pg_sys::get_namespace_oid(c"tandem".as_ptr(), false);
        let table = pg_sys::table_open(
            pg_sys::get_relname_relid(c"conflicts".as_ptr(), schema),
            pg_sys::AccessShareLock as pg_sys::LOCKMODE,
        );
        let owner = (*(*table).rd_rel).relowner;
        pg_sys::table_close(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        pg_sys::GetUserIdAndSecContext(&mut before.user, &mut before.context);
        let context = before.context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32;
        pg_sys::SetUserIdAndSecContext(owner, context);
        before
    };
    work()
}
