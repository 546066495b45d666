//! Arguments of SQL functions as the shared types take them.

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::nullable::Nullable;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;
use tandem_shared::request::PutOptions;
use tandem_shared::{ContentType, Error, Result};

/// A `jsonb` argument as text. The type of pgrx would read it into a tree of values, where numbers lose digits.
pub struct JsonbText(String);

impl JsonbText {
    /// The text as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl FromDatum for JsonbText {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _: pg_sys::Oid,
    ) -> Option<JsonbText> {
        if is_null {
            return None;
        }
        // SAFETY: the argument is declared as jsonb, so this is a jsonb datum.
        let text =
            unsafe { pgrx::direct_function_call::<&std::ffi::CStr>(pg_sys::jsonb_out, &[Some(datum)]) };
        text.map(|text| JsonbText(text.to_string_lossy().into_owned()))
    }
}

// SAFETY: the datum is read by `FromDatum`, as pgrx does for its own types.
unsafe impl<'fcx> ArgAbi<'fcx> for JsonbText {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> JsonbText {
        // SAFETY: as the caller promises, the argument is of this type. NULL cannot come here: every such argument
        // of ours is optional.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or_else(|| JsonbText(String::new()))
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<JsonbText> {
        // SAFETY: as the caller promises, the argument is of this type.
        unsafe { arg.unbox_arg_using_from_datum().into() }
    }
}

// SAFETY: the SQL type is the one that `from_polymorphic_datum` reads.
unsafe impl SqlTranslatable for JsonbText {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(JsonbText);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: std::result::Result<SqlMappingRef, ArgumentError> =
        Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: std::result::Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}

/// An argument that must not be NULL. Errors: `INVALID`.
pub fn given<T>(name: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::invalid(name, "is NULL", "give a value"))
}

/// An id that must not be NULL. Errors: `INVALID`.
pub fn given_id(id: Option<&str>) -> Result<&str> {
    let id = given("id", id)?;
    tandem_shared::id::check_id(id)?;
    Ok(id)
}

/// Options of a write as SQL gives them.
#[derive(Default)]
pub struct Options<'a> {
    /// `type`.
    pub content_type: Option<&'a str>,
    /// `version`.
    pub version: Option<i64>,
    /// `state`.
    pub state: Option<&'a str>,
    /// `if_match`.
    pub if_match: Option<&'a str>,
    /// `if_absent`.
    pub if_absent: Option<bool>,
    /// `audit`.
    pub audit: Option<&'a str>,
    /// `local`.
    pub local: Option<bool>,
}

impl Options<'_> {
    /// Hands them to `parse` in the form that both engines share. Errors: `INVALID` and those of `parse`.
    pub fn with<T>(&self, parse: impl FnOnce(&PutOptions<'_>) -> Result<T>) -> Result<T> {
        let version = self.version.map(|version| version.to_string());
        parse(&PutOptions {
            content_type: self.content_type.map(ContentType::parse).transpose()?,
            state: self.state,
            version: version.as_deref(),
            if_match: self.if_match,
            if_absent: self.if_absent.unwrap_or(false),
            audit: self.audit,
            local: self.local.unwrap_or(false),
        })
    }
}
