//! `GET /docs`: the document, browsable. Swagger UI, all of it from this binary: the page works without any network but
//! the way to this service, and its browser is told to load nothing from anywhere else.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use swagger_ui_redist::{SwaggerUi, SwaggerUiStaticFile};

use super::super::problem::Problem;
use super::{DOCUMENTATION, parameters, problems};

/// Swagger UI starts by a script in its page, styles its elements in place, and has its pictures as `data:`.
const ONLY_FROM_HERE: &str = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; \
                              img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'";

/// `GET /docs`
#[utoipa::path(
    get, path = "/docs", tag = DOCUMENTATION, operation_id = "showDocumentation",
    summary = "This document, browsable",
    responses(
        (status = 200, description = "A page that needs nothing but this service.", body = String, content_type = "text/html"),
        problems::OfEverybody,
    ),
)]
pub(super) async fn show() -> Response {
    let mut page = SwaggerUi::new();
    page.title("featbit-tokens API");
    // Without a validator: the usual one is a picture from elsewhere.
    page.config().urls(["/openapi.json"]).validator_url("none");
    for file in SwaggerUiStaticFile::all() {
        page.override_file_path(*file, format!("/docs/{}", file.file_name()));
    }
    match page.serve() {
        Ok(html) => (
            [
                (CONTENT_TYPE, "text/html; charset=utf-8"),
                (CONTENT_SECURITY_POLICY, ONLY_FROM_HERE),
                (CACHE_CONTROL, "no-cache"),
            ],
            html,
        )
            .into_response(),
        Err(error) => {
            tracing::error!(%error, "the page of the documentation can't be written");
            Problem::Internal.into_response()
        }
    }
}

/// `GET /docs/{file}`
#[utoipa::path(
    get, path = "/docs/{file}", tag = DOCUMENTATION, operation_id = "getDocumentationFile",
    summary = "A script, style or picture of that page",
    params(parameters::FileInPath),
    responses(
        (status = 200, description = "The file.", content(
            (String = "text/css"), (String = "text/javascript"), (String = "image/png"),
        ), headers(("Cache-Control" = String, description = "It changes with the service only."))),
        problems::File,
    ),
)]
pub(super) async fn file(name: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let Path(name) = name.map_err(|_| Problem::NotFound)?;
    let (file, bytes) = SwaggerUi::static_files()
        .iter()
        .find(|(file, _)| file.file_name() == name)
        .ok_or(Problem::NotFound)?;
    let headers = [(CONTENT_TYPE, media_type(*file)), (CACHE_CONTROL, "max-age=3600")];
    Ok((headers, *bytes).into_response())
}

fn media_type(file: SwaggerUiStaticFile) -> &'static str {
    match file.file_name().rsplit_once('.') {
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        _ => "image/png",
    }
}
