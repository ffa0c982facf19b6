//! What a policy answers to what clients ask, in one place for every way in: the WebSocket, HTTP, outboxes.

use prom_protocol::{ErrorCode, Policy, Refusal, Topic, TopicOrPattern, topics};

/// Refuses a publish on `topic` that `policy` does not allow.
///
/// # Errors
/// `forbidden`, and why where it is not just a rule that is missing.
pub(crate) fn publish(policy: &Policy, topic: &Topic) -> Result<(), Refusal> {
    if policy.may_publish(topic) {
        return Ok(());
    }
    let why = if topic.is_reserved() {
        ": only the hub publishes on topics that begin with $"
    } else if topic.is_dead_letters() {
        ": only the hub publishes dead letters"
    } else if topic.as_str() == topics::STATE {
        ": the hub writes it, and others by a rule that names it; wildcards do not reach it"
    } else {
        ""
    };
    Err(Refusal::new(ErrorCode::Forbidden, format!("no publish permission for {topic}{why}")))
}

/// Refuses a subscription to `target` that `policy` does not allow.
///
/// # Errors
/// `forbidden`, and whether it is the group that is too much.
pub(crate) fn subscribe(policy: &Policy, target: &TopicOrPattern, group: Option<&str>) -> Result<(), Refusal> {
    if policy.may_subscribe(target, group) {
        return Ok(());
    }
    let whom = match group {
        Some(group) if policy.may_subscribe(target, None) => format!(" as the group {group}, only without a group"),
        Some(group) => format!(" as the group {group}"),
        None => String::new(),
    };
    Err(Refusal::new(ErrorCode::Forbidden, format!("no subscribe permission for {target}{whom}")))
}

/// Refuses to let `policy` read the log of `topic`.
///
/// # Errors
/// `forbidden`.
pub(crate) fn read(policy: &Policy, topic: &Topic) -> Result<(), Refusal> {
    if policy.may_read(topic, None) {
        Ok(())
    } else {
        Err(Refusal::new(ErrorCode::Forbidden, format!("no read permission for {topic}")))
    }
}
