//! What is revoked: to be read and added to.

use std::sync::Arc;

use axum::{
    body::to_bytes,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
};
use prom_store::wall_clock;
use serde_json::json;

use super::reads::{Answer, Ops, limit};
use crate::{
    auth::{LEEWAY, Revocation, RevocationsError},
    web::{Failure, Params, json},
};

/// Largest entry: three names of 512 bytes, each byte escaped, and some.
const ENTRY_BYTES: usize = 16 * 1024;

fn without_file() -> Failure {
    let message =
        "nothing can be revoked: no file is configured to keep it in; set REVOCATIONS_FILE, and restart the hub";
    Failure::status(StatusCode::CONFLICT, message)
}

pub(super) async fn list(State(ops): State<Arc<Ops>>, uri: Uri) -> Answer {
    let params = Params::of(&uri);
    let limit = limit(&params)?;
    let after = params.integer("after", 0..=u64::from(u32::MAX))?.unwrap_or(0) as usize;
    let revocations = ops.node.verifier.revocations();
    if revocations.told_if_kept().is_none() {
        return Err(without_file());
    }
    let set = revocations.current();
    let all = set.entries();
    let rest = all.get(after..).unwrap_or_default();
    let page = &rest[..limit.min(rest.len())];
    let next = (page.len() < rest.len()).then_some(after + page.len());
    Ok(json(StatusCode::OK, &json!({ "entries": all.len(), "revocations": page, "next": next })))
}

pub(super) async fn revoke(State(ops): State<Arc<Ops>>, headers: HeaderMap, request: Request) -> Answer {
    // A page of anybody's can make a browser post text here, but JSON only with this port's leave, which it never gives.
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Failure::bad("the header Content-Type must be application/json"));
    }
    let too_large = |_| Failure::bad(format!("the body must be one JSON object of at most {ENTRY_BYTES} bytes"));
    let body = to_bytes(request.into_body(), ENTRY_BYTES).await.map_err(too_large)?;
    let mut entry = Revocation::parse(&body).map_err(Failure::bad)?;
    let now_ms = wall_clock();
    if entry.at.replace(now_ms / 1000).is_some() {
        return Err(Failure::bad("at is not yours to give: it is when the hub revokes it"));
    }
    let latest = (now_ms + LEEWAY.as_millis() as u64) / 1000;
    if entry.issued_before.is_some_and(|before| before > latest) {
        // Until then no token would be good, also none to take it back with.
        return Err(Failure::bad("issued_before must not be in the future; it counts seconds since 1970"));
    }
    let added = ops.node.verifier.revocations().add(entry.clone()).await.ok_or_else(without_file)?;
    let entries = added.map_err(|error| refused(&error))?;
    tracing::warn!(sub = ?entry.sub, iss = ?entry.iss, jti = ?entry.jti, issued_before = entry.issued_before, "tokens were revoked by the ops port");
    Ok(json(StatusCode::OK, &json!({ "revoked": entry, "entries": entries })))
}

fn refused(error: &RevocationsError) -> Failure {
    let status = match error {
        RevocationsError::TooMany | RevocationsError::TooLarge | RevocationsError::Line { .. } => StatusCode::CONFLICT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    Failure::status(status, format!("REVOCATIONS_FILE {error}"))
}
