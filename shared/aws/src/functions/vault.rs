//! [`Vault`] in Secrets Manager.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_secretsmanager::{Client, error::ProvideErrorMetadata};
use monitor::{
    ports::{ClusterSecret, StoreError, Vault},
    secret::{read, write},
};
use zeroize::Zeroizing;

use super::store::store_error;
use crate::error::Sdk;

const SERVICE: &str = "Secrets Manager";

/// How long a deleted secret can be restored, in days: 7 to 30. The shortest: it
/// holds a token that still works, and registering the cluster again brings a new
/// one anyway. A longer window would only keep the token longer.
const RECOVERY_DAYS: i64 = 7;

/// How often a write begins again because somebody deleted, restored or created
/// the secret in between. The registry's row keeps rivals away, so one round more
/// than a delete and a create of another program can take.
const ROUNDS: u32 = 4;

/// Before the next round: Secrets Manager needs a moment until all of it knows of a change.
const PAUSE: Duration = Duration::from_millis(200);

/// The secrets whose names begin with one prefix.
#[derive(Debug, Clone)]
pub struct SecretsVault {
    client: Client,
    prefix: String,
    kms_key_id: Option<String>,
}

/// How a call failed, as far as the next one depends on it.
enum Failure {
    Exists,
    NotFound,
    Scheduled,
    Other(StoreError),
}

impl SecretsVault {
    /// The prefix ends with `/`. With a KMS key (its id, ARN or alias) every secret
    /// that is written is encrypted with it from then on; without, a new one with the
    /// key that AWS keeps for Secrets Manager, and one that is there as it was.
    #[must_use]
    pub fn new(client: Client, prefix: &str, kms_key_id: Option<&str>) -> Self {
        Self { client, prefix: prefix.to_owned(), kms_key_id: kms_key_id.map(str::to_owned) }
    }

    fn name(&self, cluster_id: &str) -> Result<String, StoreError> {
        if cluster_id.is_empty() || !cluster_id.chars().all(is_name_char) {
            let what = format!("{cluster_id:?} can't be part of a secret's name");
            return Err(StoreError::Broken { what, source: None });
        }
        Ok(format!("{}{cluster_id}/credentials", self.prefix))
    }

    async fn create(&self, name: &str, cluster_id: &str, body: &str) -> Result<(), Failure> {
        let call = self
            .client
            .create_secret()
            .name(name)
            .description(format!("How dag-monitor reaches the cluster {cluster_id}."))
            .set_kms_key_id(self.kms_key_id.clone())
            .secret_string(body);
        call.send().await.map(drop).map_err(|error| failure("CreateSecret", &error))
    }

    /// With a key by the one call that sets both, whichever key the secret had: which
    /// one that is need not be asked then, and the same key again changes nothing.
    async fn replace(&self, name: &str, body: &str) -> Result<(), Failure> {
        if let Some(key) = &self.kms_key_id {
            let call = self.client.update_secret().secret_id(name).kms_key_id(key).secret_string(body);
            return call.send().await.map(drop).map_err(|error| failure("UpdateSecret", &error));
        }
        let call = self.client.put_secret_value().secret_id(name).secret_string(body);
        call.send().await.map(drop).map_err(|error| failure("PutSecretValue", &error))
    }

    async fn restore(&self, name: &str) -> Result<(), Failure> {
        let call = self.client.restore_secret().secret_id(name);
        call.send().await.map(drop).map_err(|error| failure("RestoreSecret", &error))
    }

    /// One round: create, or replace what is there, or restore and replace.
    async fn write(&self, name: &str, cluster_id: &str, body: &str) -> Result<(), Failure> {
        match self.create(name, cluster_id, body).await {
            Err(Failure::Scheduled) => {}
            Err(Failure::Exists) => match self.replace(name, body).await {
                Err(Failure::Scheduled) => {}
                other => return other,
            },
            other => return other,
        }
        self.restore(name).await?;
        self.replace(name, body).await
    }
}

#[async_trait]
impl Vault for SecretsVault {
    async fn get(&self, cluster_id: &str) -> Result<Option<ClusterSecret>, StoreError> {
        let name = self.name(cluster_id)?;
        let output = match self.client.get_secret_value().secret_id(&name).send().await {
            Ok(output) => output,
            Err(error) => {
                return match failure("GetSecretValue", &error) {
                    Failure::NotFound | Failure::Scheduled => Ok(None),
                    Failure::Exists => Err(store_error(SERVICE, "GetSecretValue", &error)),
                    Failure::Other(error) => Err(error),
                };
            }
        };
        let text = Zeroizing::new(output.secret_string.unwrap_or_default());
        read(&name, cluster_id, &text).map(Some)
    }

    async fn put(&self, cluster_id: &str, secret: &ClusterSecret) -> Result<(), StoreError> {
        let name = self.name(cluster_id)?;
        let body = write(cluster_id, secret).ok_or_else(|| StoreError::Broken {
            what: format!("the credentials of cluster {cluster_id} could not be written"),
            source: None,
        })?;
        for round in 0..ROUNDS {
            if round > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            match self.write(&name, cluster_id, &body).await {
                Ok(()) => return Ok(()),
                Err(Failure::Other(error)) => return Err(error),
                // Somebody else changed the secret's state in between.
                Err(Failure::Exists | Failure::NotFound | Failure::Scheduled) => {}
            }
        }
        Err(StoreError::Transient(
            SERVICE,
            format!("{name} changed its state in each of {ROUNDS} rounds").into(),
        ))
    }

    async fn delete(&self, cluster_id: &str) -> Result<(), StoreError> {
        let name = self.name(cluster_id)?;
        let call = self.client.delete_secret().secret_id(&name).recovery_window_in_days(RECOVERY_DAYS);
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) => match failure("DeleteSecret", &error) {
                Failure::NotFound | Failure::Scheduled => Ok(()),
                Failure::Exists => Err(store_error(SERVICE, "DeleteSecret", &error)),
                Failure::Other(error) => Err(error),
            },
        }
    }
}

/// What may stand in a secret's name, beside the slash that divides its parts.
pub(crate) fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_+=.@-".contains(c)
}

/// Sorts a refusal. That a secret is scheduled for deletion has no code of its
/// own, only words: "scheduled for deletion", "marked for deletion", "marked deleted".
fn failure<E: ProvideErrorMetadata>(operation: &'static str, error: &Sdk<E>) -> Failure {
    let meta = error.as_service_error().map(ProvideErrorMetadata::meta);
    let code = meta.and_then(|meta| meta.code());
    let message = meta.and_then(|meta| meta.message()).unwrap_or_default();
    match code {
        Some("ResourceExistsException") => Failure::Exists,
        Some("ResourceNotFoundException") => Failure::NotFound,
        Some("InvalidRequestException") if message.to_ascii_lowercase().contains("delet") => {
            Failure::Scheduled
        }
        _ => Failure::Other(store_error(SERVICE, operation, error)),
    }
}

#[cfg(test)]
mod tests;
