//! `sagamesh status`.

use std::process::ExitCode;

use futures_util::future::join_all;

use crate::args::Common;
use crate::failure::Exit;
use crate::launcher::ready;
use crate::output::{self, Format};
use crate::system::{Process, Role, System};

pub(crate) async fn run(common: &Common) -> anyhow::Result<ExitCode> {
    let system = System::find(&common.data_dir)?;
    let answers = join_all(system.processes.iter().map(|process| async move {
        ready::is_ready(process.admin.trim_start_matches("http://")).await
    }))
    .await;
    match common.output {
        Format::Json => {
            let mut value = serde_json::to_value(&system)?;
            for (index, ready) in answers.iter().enumerate() {
                value["processes"][index]["ready"] = (*ready).into();
            }
            output::line(&serde_json::to_string_pretty(&value)?);
        }
        Format::Table => {
            let mut table = output::table(&["service", "state", "address", "metrics", "pid"]);
            let processes = system.processes.iter().zip(&answers);
            // Sidecars are many and alike: only those that are not ready are worth a line.
            let shown =
                |(process, ready): &(&Process, &bool)| process.role != Role::Sidecar || !**ready;
            for (process, ready) in processes.filter(shown) {
                table.add_row([
                    process.label.clone(),
                    if *ready {
                        "ready".into()
                    } else {
                        "NOT READY".to_owned()
                    },
                    process.url.clone(),
                    format!("{}/metrics", process.admin),
                    process
                        .pid
                        .map_or_else(|| "-".into(), |pid| pid.to_string()),
                ]);
            }
            output::line(&output::text(&table));
            if let Some(line) = system.public_line() {
                output::line(&format!("\n{line}"));
            }
        }
    }
    Ok(if answers.contains(&false) {
        Exit::NotRunning.into()
    } else {
        ExitCode::SUCCESS
    })
}
