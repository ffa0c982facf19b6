//! The HTTP face.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, State, rejection::JsonRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::json;

use crate::{
    order::{Invalid, NewOrder, Order},
    store::Store,
};

/// Largest body, in bytes.
const BODY: usize = 16 * 1024;

/// Most orders that `GET /orders` answers.
const NEWEST: u16 = 20;

/// `POST /orders`, `GET /orders` and `GET /orders/{id}`.
pub(crate) fn routes(store: Arc<Store>) -> Router {
    Router::new()
        .route("/orders", post(place).get(newest))
        .route("/orders/{id}", get(show))
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(store)
}

async fn place(
    State(store): State<Arc<Store>>,
    body: Result<Json<NewOrder>, JsonRejection>,
) -> Result<Response, Refused> {
    let order = body?.0.place()?;
    store.place(&order).await?;
    let location = format!("/orders/{}", order.id());
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(order.placed())).into_response())
}

async fn newest(State(store): State<Arc<Store>>) -> Result<Response, Refused> {
    let orders = store.newest(NEWEST).await?;
    let orders: Vec<_> = orders.iter().map(Order::placed).collect();
    Ok(Json(json!({"orders": orders})).into_response())
}

async fn show(State(store): State<Arc<Store>>, Path(id): Path<String>) -> Result<Response, Refused> {
    let order = store.find(&id).await?.ok_or(Refused::Unknown)?;
    Ok(Json(order.placed()).into_response())
}

/// What is answered instead: `{"error": …}`, with the field if it is about one.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Body(#[from] JsonRejection),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("there is no such order")]
    Unknown,
    #[error("the database did not answer as it should; the order may have been placed")]
    Database(#[from] mongodb::error::Error),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, field) = match &self {
            Self::Body(rejection) => (rejection.status(), None),
            Self::Invalid(invalid) => (StatusCode::UNPROCESSABLE_ENTITY, Some(invalid.field)),
            Self::Unknown => (StatusCode::NOT_FOUND, None),
            Self::Database(error) => {
                // Its words may name hosts: for us, not for the customer.
                tracing::error!(%error, "MongoDB");
                (StatusCode::SERVICE_UNAVAILABLE, None)
            }
        };
        // axum keeps the part that names the field in the body text of a rejection.
        let words = match &self {
            Self::Body(rejection) => rejection.body_text(),
            other => other.to_string(),
        };
        let body = match field {
            Some(field) => json!({"error": words, "field": field}),
            None => json!({"error": words}),
        };
        (status, Json(body)).into_response()
    }
}
