//! `saga.v1.DefinitionService`.

use std::collections::BTreeSet;
use std::sync::Arc;

use chassis::{Problem, Violations, page, timestamp};
use ledger::StreamId;
use sagamesh_api::saga::v1::definition_service_server::DefinitionService;
use sagamesh_api::saga::v1::{
    ActivateDefinitionRequest, ActivateDefinitionResponse, DefinitionVersion,
    DeleteDefinitionRequest, DeleteDefinitionResponse, GetDefinitionRequest, GetDefinitionResponse,
    ListDefinitionsRequest, ListDefinitionsResponse, PauseDefinitionRequest,
    PauseDefinitionResponse, RegisterDefinitionRequest, RegisterDefinitionResponse,
    ResumeDefinitionRequest, ResumeDefinitionResponse,
};
use tonic::{Code, Request, Response, Status};

use super::{Definitions, check, list};
use crate::decider::{Command, DEFINITION};
use crate::engine::Engine;
use crate::follow;
use crate::problems::{ERRORS, read_failed};
use crate::registry::{DefinitionChange, DefinitionRecord, Version};
use crate::saga::{self, Plan};

const DEFAULT_PAGE: u32 = 100;
const LARGEST_PAGE: u32 = 1_000;

#[tonic::async_trait]
impl DefinitionService for Definitions {
    async fn register_definition(
        &self,
        request: Request<RegisterDefinitionRequest>,
    ) -> Result<Response<RegisterDefinitionResponse>, Status> {
        let definition = request.into_inner().definition;
        let definition = definition.ok_or_else(|| {
            ERRORS.invalid_field("definition", "is missing: say what to register")
        })?;
        let known: BTreeSet<String> = self
            .engine
            .dispatch
            .look(|hub, _| hub.known_participants())
            .into_iter()
            .collect();
        let mut found = Violations::new();
        for violation in saga::validate(&definition, Some(&known)) {
            let field = if violation.field.is_empty() {
                "definition".to_owned()
            } else {
                format!("definition.{}", violation.field)
            };
            found.add(field, violation.description);
        }
        found.into_result(ERRORS)?;
        let plan = self
            .engine
            .registry
            .intern(&definition)
            .map_err(|violations| {
                let mut found = Violations::new();
                violations.into_iter().for_each(|violation| {
                    found.add(
                        format!("definition.{}", violation.field),
                        violation.description,
                    )
                });
                ERRORS.invalid(found)
            })?;
        change(
            &self.engine,
            plan.name(),
            DefinitionChange::Register(Arc::clone(&plan)),
        )
        .await?;
        let version = version(&self.engine, plan.name(), plan.hash())?;
        Ok(Response::new(RegisterDefinitionResponse {
            version: Some(version),
        }))
    }

    async fn activate_definition(
        &self,
        request: Request<ActivateDefinitionRequest>,
    ) -> Result<Response<ActivateDefinitionResponse>, Status> {
        let ActivateDefinitionRequest {
            name,
            hash,
            expected_active_hash,
        } = request.into_inner();
        let mut found = Violations::new();
        check::name(&mut found, "name", &name);
        check_hash(&mut found, &hash);
        found.into_result(ERRORS)?;
        change(
            &self.engine,
            &name,
            DefinitionChange::Activate {
                hash: hash.clone(),
                expected: expected_active_hash,
            },
        )
        .await?;
        let version = version(&self.engine, &name, &hash)?;
        Ok(Response::new(ActivateDefinitionResponse {
            version: Some(version),
        }))
    }

    async fn get_definition(
        &self,
        request: Request<GetDefinitionRequest>,
    ) -> Result<Response<GetDefinitionResponse>, Status> {
        let GetDefinitionRequest { name, hash } = request.into_inner();
        let mut found = Violations::new();
        check::name(&mut found, "name", &name);
        found.into_result(ERRORS)?;
        let version = fresh_version(&self.engine, &name, &hash).await?;
        Ok(Response::new(GetDefinitionResponse {
            version: Some(version),
        }))
    }

    async fn list_definitions(
        &self,
        request: Request<ListDefinitionsRequest>,
    ) -> Result<Response<ListDefinitionsResponse>, Status> {
        let request = request.into_inner();
        let size = page::page_size(ERRORS, request.page_size, DEFAULT_PAGE, LARGEST_PAGE)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let after = page::decode_token(ERRORS, &request.name, &request.page_token)?;
        let mut all = Vec::new();
        for (name, record) in self.engine.registry.all() {
            if request.name.is_empty() || request.name == name {
                let versions = record
                    .versions
                    .iter()
                    .rev()
                    .filter(|version| !version.deleted);
                all.extend(versions.map(|version| describe(&self.engine, &record, version)));
            }
        }
        let place = |version: &DefinitionVersion| version.hash.as_bytes().to_vec();
        // The token names the last version seen; if it was deleted since, the list starts again after its place is lost.
        let skip = match &after {
            Some(cursor) => all
                .iter()
                .position(|version| place(version) == *cursor)
                .map(|at| at + 1),
            None => Some(0),
        };
        let skip = skip.ok_or_else(|| {
            ERRORS.invalid_field(
                "page_token",
                "names a version that was deleted since: start from the first page",
            )
        })?;
        let versions: Vec<DefinitionVersion> = all.iter().skip(skip).take(size).cloned().collect();
        let next_page_token = match versions.last() {
            Some(last) if skip + size < all.len() => {
                page::encode_token(&request.name, &place(last))
            }
            _ => String::new(),
        };
        Ok(Response::new(ListDefinitionsResponse {
            versions,
            next_page_token,
        }))
    }

    async fn pause_definition(
        &self,
        request: Request<PauseDefinitionRequest>,
    ) -> Result<Response<PauseDefinitionResponse>, Status> {
        let PauseDefinitionRequest { name, reason } = request.into_inner();
        let mut found = Violations::new();
        check::name(&mut found, "name", &name);
        check::text(&mut found, "reason", &reason, 1, 1_000);
        found.into_result(ERRORS)?;
        change(&self.engine, &name, DefinitionChange::Pause { reason }).await?;
        Ok(Response::new(PauseDefinitionResponse {}))
    }

    async fn resume_definition(
        &self,
        request: Request<ResumeDefinitionRequest>,
    ) -> Result<Response<ResumeDefinitionResponse>, Status> {
        let ResumeDefinitionRequest { name } = request.into_inner();
        let mut found = Violations::new();
        check::name(&mut found, "name", &name);
        found.into_result(ERRORS)?;
        change(&self.engine, &name, DefinitionChange::Resume).await?;
        Ok(Response::new(ResumeDefinitionResponse {}))
    }

    async fn delete_definition(
        &self,
        request: Request<DeleteDefinitionRequest>,
    ) -> Result<Response<DeleteDefinitionResponse>, Status> {
        let DeleteDefinitionRequest { name, hash } = request.into_inner();
        let mut found = Violations::new();
        check::name(&mut found, "name", &name);
        check_hash(&mut found, &hash);
        found.into_result(ERRORS)?;
        list::catch_up(&self.engine).await?;
        let mut version = fresh_version(&self.engine, &name, &hash).await?;
        // Those in memory, and those that this program could not read.
        let on_record = list::count_open(&self.engine, &name, &version.hash).await?;
        version.open_sagas = version.open_sagas.max(on_record);
        if version.open_sagas > 0 {
            let message = format!(
                "{} sagas that have not ended run version {hash} of {name:?}: wait until they have ended, or cancel them",
                version.open_sagas
            );
            return Err(ERRORS
                .problem(Code::FailedPrecondition, "DEFINITION_IN_USE", message)
                .into());
        }
        change(&self.engine, &name, DefinitionChange::Delete { hash }).await?;
        Ok(Response::new(DeleteDefinitionResponse {}))
    }
}

fn check_hash(found: &mut Violations, hash: &str) {
    if !(hash.len() == 64
        && hash
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)))
    {
        found.add(
            "hash",
            "must have 64 lower-case hexadecimal digits, as RegisterDefinition returned them",
        );
    }
}

async fn change(engine: &Engine, name: &str, change: DefinitionChange) -> Result<(), Problem> {
    let stream = StreamId::of(DEFINITION, name);
    engine
        .change(Command::Definition(stream.clone(), change))
        .await?;
    // What changed nothing may rest on what another replica wrote.
    refresh(engine, &stream).await
}

/// Brings a definition up to what other replicas have written.
async fn refresh(engine: &Engine, stream: &StreamId) -> Result<(), Problem> {
    if !engine.ownership.is_shared() {
        return Ok(());
    }
    let refreshed = follow::refresh(engine, stream).await;
    refreshed.map_err(|error| read_failed(&error))
}

/// A version as it is on record, with the open sagas of all replicas.
async fn fresh_version(
    engine: &Engine,
    name: &str,
    hash: &str,
) -> Result<DefinitionVersion, Problem> {
    refresh(engine, &StreamId::of(DEFINITION, name)).await?;
    let mut version = version(engine, name, hash)?;
    if engine.ownership.has_peers() {
        version.open_sagas = list::count_open(engine, name, &version.hash).await?;
    }
    Ok(version)
}

/// A version by hash; the active one for the empty hash.
fn version(engine: &Engine, name: &str, hash: &str) -> Result<DefinitionVersion, Problem> {
    engine.registry.with(name, |record| {
        let not_found = |reason, message| ERRORS.problem(Code::NotFound, reason, message);
        let record = record.ok_or_else(|| {
            not_found(
                "DEFINITION_NOT_FOUND",
                format!("no definition named {name:?} is registered"),
            )
        })?;
        let hash = match (hash, &record.active) {
            ("", None) => {
                return Err(not_found(
                    "DEFINITION_NOT_ACTIVE",
                    format!("definition {name:?} has no active version: name one by hash"),
                ));
            }
            ("", Some(active)) => active,
            (hash, _) => hash,
        };
        let version = record.find(hash).ok_or_else(|| {
            not_found(
                "DEFINITION_VERSION_NOT_FOUND",
                format!("definition {name:?} has no version {hash:?}"),
            )
        })?;
        Ok(describe(engine, record, version))
    })
}

fn describe(engine: &Engine, record: &DefinitionRecord, version: &Version) -> DefinitionVersion {
    let plan = &version.plan;
    let active = record.active.as_deref() == Some(plan.hash());
    DefinitionVersion {
        definition: Some(plan.definition().clone()),
        hash: plan.hash().to_owned(),
        register_time: Some(timestamp::from_millis(version.registered)),
        active,
        paused: record.paused.is_some(),
        open_sagas: engine.dispatch.look(|hub, _| hub.runs(plan)) as u64,
        warnings: if active {
            warnings(engine, plan)
        } else {
            Vec::new()
        },
    }
}

/// What keeps sagas of a plan from going on: steps without a connected handler.
pub(crate) fn warnings(engine: &Engine, plan: &Plan) -> Vec<String> {
    let mut warnings = Vec::new();
    for step in plan.steps() {
        let Some(call) = step.call() else {
            continue;
        };
        for action in [Some(&call.action), call.compensation.as_ref()]
            .into_iter()
            .flatten()
        {
            if !engine
                .dispatch
                .look(|hub, _| hub.has_handler(&call.participant, action))
            {
                warnings.push(format!(
                    "no connected instance of participant {:?} handles {action:?} (step {:?})",
                    call.participant, step.name
                ));
            }
        }
    }
    warnings
}
