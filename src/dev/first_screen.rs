//! What `dev` tells: scripts in `dev.json`, shells in `env`, and people on the first screen, ready to paste.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::audit::Audit;
use super::demo::{self, DemoMember, Installation};
use super::{DevOptions, EmbeddedPostgres, shown};
use crate::app::App;

/// Everything there is to tell.
pub(super) struct Screen<'a> {
    pub(super) app: &'a App,
    pub(super) installation: &'a Installation,
    pub(super) options: &'a DevOptions,
    pub(super) postgres: Option<&'a EmbeddedPostgres>,
    pub(super) database_url: &'a str,
    pub(super) audit: Option<&'a Audit>,
    pub(super) kafka: &'a str,
    pub(super) kafka_is_embedded: bool,
    pub(super) topic: &'a str,
}

impl Screen<'_> {
    fn url(&self) -> String {
        format!("http://{}", self.app.address)
    }

    fn jwt(&self, member: &DemoMember) -> io::Result<String> {
        self.installation.jwt(member).map_err(io::Error::other)
    }

    fn json(&self) -> io::Result<Value> {
        let members = demo::members()
            .iter()
            .map(|member| {
                Ok(json!({ "id": member.id, "name": member.name, "role": member.role, "jwt": self.jwt(member)? }))
            })
            .collect::<io::Result<Vec<Value>>>()?;
        Ok(json!({
            "http": self.url(),
            "databaseUrl": self.database_url,
            "kafka": self.kafka,
            "topic": self.topic,
            "organizationId": demo::organization_id(),
            "jwtKey": self.installation.jwt_key,
            "intakeKey": self.installation.intake_key,
            "members": members,
        }))
    }

    /// As a shell reads it: the tour's variables.
    fn environment(&self) -> io::Result<String> {
        let mut text = format!(
            "URL={}\nORG={}\nKAFKA={}\nTOPIC={}\nINTAKE_KEY={}\nDATABASE_URL='{}'\n",
            self.url(),
            demo::organization_id(),
            self.kafka,
            self.topic,
            self.installation.intake_key,
            self.database_url,
        );
        if let Some(audit) = self.audit {
            text.push_str(&format!(
                "export AUDIT_SIGNING_KEY_PATH='{}'\nexport AUDIT_CHECKPOINT_DIR='{}'\n",
                audit.key.display(),
                audit.checkpoints.display()
            ));
        }
        for member in &demo::members() {
            let name = member.role.to_uppercase();
            text.push_str(&format!(
                "{name}={}\n{name}_JWT={}\n",
                member.id,
                self.jwt(member)?
            ));
        }
        Ok(text)
    }
}

/// `dev.json` and `env`: there only while `dev` is ready.
#[derive(Debug)]
pub(super) struct DevFile {
    json: PathBuf,
    environment: PathBuf,
}

impl DevFile {
    /// The files' places in a folder.
    pub(super) fn in_dir(dir: &Path) -> Self {
        Self {
            json: dir.join("dev.json"),
            environment: dir.join("env"),
        }
    }

    /// Both files, readable by their owner only; `dev.json` last, since it says that all is ready.
    pub(super) fn write(&self, screen: &Screen<'_>) -> io::Result<()> {
        replace(&self.environment, &screen.environment()?)?;
        replace(&self.json, &format!("{:#}\n", screen.json()?))
    }

    /// Neither file.
    pub(super) fn remove(&self) -> io::Result<()> {
        for path in [&self.json, &self.environment] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// Whole or not at all.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let aside = path.with_extension("new");
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&aside, path)
}

/// What runs where, and what to paste next.
pub(super) fn print(screen: &Screen<'_>, file: &DevFile) {
    let postgres = match screen.postgres {
        Some(postgres) if postgres.moved() => format!(
            "PostgreSQL of its own, in {} (its user can't reach {})",
            shown(postgres.directory()),
            shown(&screen.options.data_dir)
        ),
        Some(postgres) => format!("PostgreSQL of its own, in {}", shown(postgres.directory())),
        None => "the PostgreSQL you named".to_owned(),
    };
    let kafka = if screen.kafka_is_embedded {
        format!(
            "{} (in this process: memory only, 5 MiB a partition, gone at the end)",
            screen.kafka
        )
    } else {
        format!("{} (the Kafka you named)", screen.kafka)
    };
    let text = format!(
        r#"
featbit-tokens is ready.

  API       {url}
  log       {postgres}
  Kafka     {kafka}, topic {topic}
  demo      one owner, one administrator, one developer; for scripts: {json}

Paste this into another terminal:

  # 1. the developer makes a personal token
  . {env}
  curl -s $URL/api/v1/access-tokens -H "Authorization: Bearer $DEVELOPER_JWT" -H "Organization: $ORG" \
    -H 'Content-Type: application/json' -d '{{"name":"ci-'$RANDOM'","type":"Personal"}}' | tee /tmp/token.json; echo
  TOKEN=$(grep -o 'api-p_[0-9A-Za-z]*' /tmp/token.json)

  # 2. may it toggle a flag?
  curl -s $URL/access/v1/evaluation -H 'Content-Type: application/json' -d '{{
    "subject":{{"type":"access_token","id":"'$TOKEN'"}},"action":{{"name":"ToggleFlag"}},
    "resource":{{"type":"flag","id":"project/web:env/prod:flag/dark-mode"}}}}'; echo

  # 3. take the permission away by a Kafka message, and ask 2. again
  echo $ORG:$DEVELOPER'|{{"specversion":"1.0","id":"'$RANDOM$RANDOM'","source":"/tour","type":"featbit.membership.PermissionRevoked",
    "data":{{"organizationId":"'$ORG'","memberId":"'$DEVELOPER'","permission":"ToggleFlag"}}}}' | tr -d '\n' | kcat -P -b $KAFKA -t $TOPIC -K '|'

Ctrl-C stops everything.
"#,
        url = screen.url(),
        topic = screen.topic,
        json = shown(&file.json),
        env = sourced(&file.environment),
    );
    // Whoever started it may have closed the terminal; the service runs on.
    let _ = io::stdout().write_all(text.as_bytes());
}

/// A relative path that a shell's `.` takes for a path, not for something to look up.
fn sourced(path: &Path) -> String {
    if path.is_absolute() {
        shown(path)
    } else {
        format!("./{}", shown(path))
    }
}
