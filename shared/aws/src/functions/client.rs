//! The clients, built once for a process.

use std::{sync::Arc, time::Duration};

use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_sdk_dynamodb::config::{BehaviorVersion, Region, SharedHttpClient};
use aws_smithy_http_client::{Builder, tls};
use aws_smithy_types::{
    retry::{RetryConfig, RetrySpec},
    timeout::TimeoutConfig,
};
use aws_types::{SdkConfig, origin::Origin};
use monitor::ports::SystemClock;
use secrecy::ExposeSecret;

use super::{
    Access, BusEvents, DynamoDeployments, DynamoRegistry, EksMinter, EmfMetrics, SecretsVault, StepFunctions,
};

// The check function has 10 s, of which the clusters get 4.5 s. Before and after
// them comes one request of ours each: 2.5 + 4.5 + 2.5 = 9.5 s, so that a store
// that hangs ends in our `Transient` and not in Lambda's bare timeout.
const OPERATION: Duration = Duration::from_millis(2_500);
/// Two tries fit into an operation, with a pause between. A hundred times what a
/// request takes; the first one makes the connection, too.
const ATTEMPT: Duration = Duration::from_millis(1_200);
/// Less than an attempt, so that a dead address is told apart from a slow service.
const CONNECT: Duration = Duration::from_millis(1_000);
/// What fails at once (throttled, 500, connection reset) gets a third try.
const ATTEMPTS: u32 = 3;
/// The SDK's pause of up to a second would eat the second try.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(300);

/// AWS, as one process reaches it.
///
/// The credentials are those that Lambda puts into the environment. The SDK's
/// usual chain of providers is not linked: it brings STS, reads profiles, and asks
/// the metadata service, none of which exists in a function.
#[derive(Debug, Clone)]
pub struct Aws {
    shared: SdkConfig,
    dynamo: aws_sdk_dynamodb::Client,
}

impl Aws {
    /// Clients that share one pool of connections and one set of trusted roots.
    #[must_use]
    pub fn new(access: &Access) -> Self {
        let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc);
        Self::with_http_client(access, Builder::new().tls_provider(provider).build_https())
    }

    /// Clients whose requests go by another way, as those of tests do.
    #[must_use]
    pub fn with_http_client(access: &Access, http: SharedHttpClient) -> Self {
        let credentials = Credentials::new(
            access.access_key_id.clone(),
            access.secret_access_key.expose_secret(),
            access.session_token.as_ref().map(|token| token.expose_secret().to_owned()),
            None,
            "environment",
        );
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(ATTEMPT)
            .operation_timeout(OPERATION)
            .build();
        let retries = RetryConfig::standard()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(PAUSE)
            .with_max_backoff(LONGEST_PAUSE)
            .with_retry_spec(RetrySpec::v2_1().with_non_throttling_initial_backoff(PAUSE));
        let mut shared = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(access.region.clone()))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(http)
            .timeout_config(timeouts)
            .retry_config(retries);
        // Said to be ours: DynamoDB's client would otherwise raise the attempts to four.
        shared.insert_origin("retry_config", Origin::shared_config());
        shared.set_endpoint_url(access.endpoint_url.clone());
        let shared = shared.build();
        let dynamo = aws_sdk_dynamodb::Client::new(&shared);
        Self { shared, dynamo }
    }

    /// What every client is built from, for a client of another service.
    #[must_use]
    pub fn sdk_config(&self) -> &SdkConfig {
        &self.shared
    }

    /// The deployments in this table.
    #[must_use]
    pub fn deployments(&self, table: &str) -> DynamoDeployments {
        DynamoDeployments::new(self.dynamo.clone(), table, Arc::new(SystemClock))
    }

    /// The clusters and environments in this table.
    #[must_use]
    pub fn registry(&self, table: &str) -> DynamoRegistry {
        DynamoRegistry::new(self.dynamo.clone(), table)
    }

    /// The secrets whose names begin with `prefix`, which ends with `/`. Written with
    /// this KMS key; `None`: with the one that AWS keeps for Secrets Manager.
    #[must_use]
    pub fn vault(&self, prefix: &str, kms_key_id: Option<&str>) -> SecretsVault {
        SecretsVault::new(aws_sdk_secretsmanager::Client::new(&self.shared), prefix, kms_key_id)
    }

    /// The events on this bus.
    #[must_use]
    pub fn events(&self, bus: &str) -> BusEvents {
        BusEvents::new(aws_sdk_eventbridge::Client::new(&self.shared), bus)
    }

    /// The executions of this state machine.
    #[must_use]
    pub fn executions(&self, state_machine_arn: &str) -> StepFunctions {
        StepFunctions::new(aws_sdk_sfn::Client::new(&self.shared), state_machine_arn)
    }

    /// The way into EKS clusters; by a role only where it is one of these, and with
    /// this ExternalId.
    #[must_use]
    pub fn eks(&self, role_arns: &[String], external_id: Option<&str>) -> EksMinter {
        EksMinter::new(self.shared.clone(), role_arns, external_id, Arc::new(SystemClock))
    }

    /// The metrics of this stack.
    #[must_use]
    pub fn metrics(&self, stack: &str) -> EmfMetrics {
        EmfMetrics::new(stack, Arc::new(SystemClock))
    }
}

#[cfg(test)]
mod tests;
