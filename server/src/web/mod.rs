//! What both ports need to speak HTTP: answers, refusals, parameters, the page, and sockets that are read and written
//! with limits.

mod answer;
mod failure;
pub(crate) mod page;
mod params;
mod read_ahead;
mod write_timeout;

pub use self::page::Page;
pub(crate) use self::{
    answer::{JSON, answer, json},
    failure::Failure,
    params::Params,
    write_timeout::WriteTimeoutListener,
};
