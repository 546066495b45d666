//! Key permissions of ids that are not among a command's declared keys: Redis checks those by itself, and these are
//! asked of it one by one.

use redis_module::{AclPermissions, CallOptionsBuilder, CallResult, Context, RedisString, RedisValue, raw};
use std::ptr::NonNull;

/// Whose rights count.
pub enum Caller {
    /// Nobody's: what the master, the AOF or another module says on its own behalf.
    Trusted,
    /// Of a user whom Redis does not know any more, or who is a module's own.
    Nobody,
    /// Of this user.
    User(User),
}

/// A handle of Redis for one of its users.
pub struct User(NonNull<raw::RedisModuleUser>);

impl Drop for User {
    fn drop(&mut self) {
        // SAFETY: the handle is this one's own, and it is given back once.
        unsafe {
            if let Some(free) = raw::RedisModule_FreeModuleUser {
                free(self.0.as_ptr());
            }
        }
    }
}

impl User {
    fn may(&self, name: &RedisString, permissions: &AclPermissions) -> bool {
        // SAFETY: handle and key live as long as they are borrowed; Redis reads both.
        let status = unsafe {
            raw::RedisModule_ACLCheckKeyPermissions
                .map(|check| check(self.0.as_ptr(), name.inner, permissions.bits()))
        };
        status == Some(raw::Status::Ok as i32)
    }

    /// Whether the permissions hold for every key. Only patterns of nothing but stars match the empty name and any
    /// other; so Redis is asked about two, and not for its list of patterns, which 7.0.1 does not give.
    fn may_all(&self, context: &Context, permissions: &AclPermissions) -> bool {
        ["", "\u{1} tandem asks for all keys \u{1}"]
            .iter()
            .all(|name| self.may(&context.create_string(*name), permissions))
    }
}

impl Caller {
    /// Who calls the command that runs in this context. `command` is its name, and what must follow for it to be
    /// refused for want of arguments before it looks at the caller.
    pub fn of(context: &Context, command: &[&str]) -> Caller {
        let Some(name) = client_user(context).or_else(|| borrowed_user(context, command)) else {
            return Caller::Trusted;
        };
        // SAFETY: the name is a string of Redis' own; the handle is ours.
        let user = unsafe { raw::RedisModule_GetModuleUserFromUserName.map(|user| user(name.inner)) };
        user.and_then(NonNull::new).map_or(Caller::Nobody, |user| Caller::User(User(user)))
    }

    /// Whether the caller may read this id.
    pub fn may_read(&self, name: &RedisString) -> bool {
        self.may(name, &AclPermissions::ACCESS)
    }

    /// Whether the caller may write this id.
    pub fn may_write(&self, name: &RedisString) -> bool {
        self.may(name, &AclPermissions::UPDATE)
    }

    fn may(&self, name: &RedisString, permissions: &AclPermissions) -> bool {
        match self {
            Caller::Trusted => true,
            Caller::Nobody => false,
            Caller::User(user) => user.may(name, permissions),
        }
    }

    /// The caller, or a trusted one if every id may be read: then none need be asked about.
    pub fn unless_reads_all(self, context: &Context) -> Caller {
        self.unless_all(context, &AclPermissions::ACCESS)
    }

    /// The caller, or a trusted one if every id may be written.
    pub fn unless_writes_all(self, context: &Context) -> Caller {
        self.unless_all(context, &AclPermissions::UPDATE)
    }

    fn unless_all(self, context: &Context, permissions: &AclPermissions) -> Caller {
        match self {
            Caller::User(user) if user.may_all(context, permissions) => Caller::Trusted,
            other => other,
        }
    }

    /// Whether every id may be read and written.
    pub fn may_everything(&self, context: &Context) -> bool {
        let all = [AclPermissions::ACCESS, AclPermissions::UPDATE];
        match self {
            Caller::Trusted => true,
            Caller::Nobody => false,
            Caller::User(user) => all.iter().all(|permissions| user.may_all(context, permissions)),
        }
    }

    /// Whether nothing need be asked.
    pub fn is_trusted(&self) -> bool {
        matches!(self, Caller::Trusted)
    }
}

/// The user of the client, where it is one that Redis knows by its number.
fn client_user(context: &Context) -> Option<RedisString> {
    let raw_context = context.get_raw();
    // SAFETY: the context is the current command's. Unlike GetCurrentUserName this looks whether there is a user.
    let name = unsafe {
        let id = raw::RedisModule_GetClientId.map(|id| id(raw_context))?;
        raw::RedisModule_GetClientUserNameById.map(|name| name(raw_context, id))?
    };
    owned(name)
}

/// The user on whose behalf a script or another module calls, whose own client has no number. GetCurrentUserName must
/// not be asked where there is none, as it does not look; but a call with that user's rights says so. It is a call of
/// the very command, which the user may run or would not be here.
fn borrowed_user(context: &Context, command: &[&str]) -> Option<RedisString> {
    let (name, rest) = command.split_first()?;
    let options = CallOptionsBuilder::new().verify_acl().errors_as_replies().build();
    let answer: CallResult<'_> = context.call_ext(name, &options, rest);
    let said = match answer {
        Err(error) => error.to_utf8_string().unwrap_or_default(),
        Ok(_) => String::new(),
    };
    if said.contains("cannot run as user") {
        return None;
    }
    // SAFETY: the context is the current command's, and its client has a user.
    owned(unsafe { raw::RedisModule_GetCurrentUserName.map(|name| name(context.get_raw()))? })
}

fn owned(name: *mut raw::RedisModuleString) -> Option<RedisString> {
    NonNull::new(name).map(|name| RedisString::from_redis_module_string(std::ptr::null_mut(), name.as_ptr()))
}

/// Refuses the command as Redis itself does for a declared key.
pub fn refuse(context: &Context) -> RedisValue {
    crate::reply::Reply::new(context).no_permission();
    RedisValue::NoReply
}
