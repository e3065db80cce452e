//! The environment, read once at the start. An error names the variable and the
//! bad value, but never a secret.

use std::{fmt, str::FromStr};

use secrecy::SecretString;
use tracing_subscriber::filter::{LevelFilter, Targets};

/// A variable that is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It must be set, and is not, or is empty.
    #[error("{0} is not set")]
    Missing(&'static str),
    /// It is set to something that is not allowed.
    #[error("{variable} is {value:?}; it must be {allowed}")]
    Wrong {
        /// Its name.
        variable: &'static str,
        /// What it is set to.
        value: String,
        /// What it may be.
        allowed: String,
    },
}

/// What both functions need; the check function has nothing of its own.
#[derive(Debug, Clone)]
pub struct Config {
    /// How AWS is reached.
    pub access: Access,
    /// What is logged.
    pub log: Targets,
    /// `DEPLOYMENTS_TABLE`.
    pub deployments_table: String,
    /// `REGISTRY_TABLE`.
    pub registry_table: String,
    /// `SECRET_PREFIX`: before a cluster's id in the name of its secret; ends with `/`.
    pub secret_prefix: String,
    /// `EVENT_BUS_NAME`.
    pub event_bus: String,
    /// `STACK_NAME`: the metrics' dimension `Stack`.
    pub stack_name: String,
    /// `DEPLOY_MONITOR_TIMEOUT_SECS`: 10 to 7,200, by default 300.
    pub timeout_secs: u32,
    /// `RECORD_TTL_DAYS`: 1 to 3,650, by default 90.
    pub record_ttl_days: u32,
    /// `ALLOWED_API_SERVER_CIDRS`, as given; `None` where it is empty, as the template leaves it.
    pub allowed_api_server_cidrs: Option<String>,
    /// `EKS_ROLE_ARNS`, with commas between: the roles that may be taken on the way to an EKS cluster.
    pub eks_role_arns: Vec<String>,
    /// `EKS_EXTERNAL_ID`: with which they are taken; there where roles are.
    pub eks_external_id: Option<String>,
}

/// What the register function needs.
#[derive(Debug, Clone)]
pub struct RegisterConfig {
    /// What the check function needs, too.
    pub shared: Config,
    /// `SECRET_KMS_KEY_ID`: id, ARN or alias of the key for the secrets; `None`: Secrets Manager's own.
    pub secret_kms_key_id: Option<String>,
    /// `STATE_MACHINE_ARN`.
    pub state_machine_arn: String,
}

/// How AWS is reached: what Lambda puts into the environment of each function.
#[derive(Clone)]
pub struct Access {
    /// `AWS_REGION`.
    pub region: String,
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: SecretString,
    /// `AWS_SESSION_TOKEN`.
    pub session_token: Option<SecretString>,
    /// `AWS_ENDPOINT_URL`: an emulator.
    pub endpoint_url: Option<String>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("region", &self.region)
            .field("endpoint_url", &self.endpoint_url)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// From the environment of the process.
    ///
    /// # Errors
    /// The first variable that is missing or wrong.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::read(environment)
    }

    /// From anything that knows variables by name.
    ///
    /// # Errors
    /// The first variable that is missing or wrong.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let variables = Variables(&lookup);
        let (eks_role_arns, eks_external_id) = variables.eks()?;
        Ok(Self {
            access: variables.access()?,
            log: variables.log()?,
            deployments_table: variables.required("DEPLOYMENTS_TABLE")?,
            registry_table: variables.required("REGISTRY_TABLE")?,
            secret_prefix: variables.secret_prefix()?,
            event_bus: variables.required("EVENT_BUS_NAME")?,
            stack_name: variables.required("STACK_NAME")?,
            timeout_secs: variables.timeout_secs()?,
            record_ttl_days: variables.record_ttl_days()?,
            allowed_api_server_cidrs: variables.optional("ALLOWED_API_SERVER_CIDRS"),
            eks_role_arns,
            eks_external_id,
        })
    }
}

impl RegisterConfig {
    /// From the environment of the process.
    ///
    /// # Errors
    /// The first variable that is missing or wrong.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::read(environment)
    }

    /// From anything that knows variables by name.
    ///
    /// # Errors
    /// The first variable that is missing or wrong.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let variables = Variables(&lookup);
        Ok(Self {
            shared: Config::read(&lookup)?,
            secret_kms_key_id: variables.optional("SECRET_KMS_KEY_ID"),
            state_machine_arn: variables.state_machine_arn()?,
        })
    }
}

/// One variable of the process. What is not Unicode comes with replacement
/// characters, and is refused as any other bad value, by name.
fn environment(name: &str) -> Option<String> {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    let value = std::env::var_os(name);
    value.map(|value| value.to_string_lossy().into_owned())
}

struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    /// CloudFormation can't leave a variable out, only leave it empty.
    fn optional(&self, name: &'static str) -> Option<String> {
        (self.0)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn required(&self, name: &'static str) -> Result<String, ConfigError> {
        self.optional(name).ok_or(ConfigError::Missing(name))
    }

    fn number(&self, name: &'static str, min: u32, max: u32, default: u32) -> Result<u32, ConfigError> {
        let Some(value) = self.optional(name) else {
            return Ok(default);
        };
        match value.parse() {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ => {
                let allowed = format!("a whole number from {min} to {max}");
                Err(ConfigError::Wrong { variable: name, value, allowed })
            }
        }
    }

    fn timeout_secs(&self) -> Result<u32, ConfigError> {
        self.number("DEPLOY_MONITOR_TIMEOUT_SECS", 10, 7_200, 300)
    }

    fn record_ttl_days(&self) -> Result<u32, ConfigError> {
        self.number("RECORD_TTL_DAYS", 1, 3_650, 90)
    }

    /// The executions' ARNs are made from it, so it must be a plain one: a version's
    /// or an alias's has a part more.
    fn state_machine_arn(&self) -> Result<String, ConfigError> {
        let variable = "STATE_MACHINE_ARN";
        let value = self.required(variable)?;
        let parts: Vec<&str> = value.split(':').collect();
        if matches!(parts[..], ["arn", _, "states", _, _, "stateMachine", name] if !name.is_empty()) {
            return Ok(value);
        }
        let allowed = "arn:…:states:…:stateMachine: and a name, without version or alias".to_owned();
        Err(ConfigError::Wrong { variable, value, allowed })
    }

    /// The roles, and the ExternalId with which they are taken. One without the other
    /// is refused: a role that any account may name can be abused through us.
    fn eks(&self) -> Result<(Vec<String>, Option<String>), ConfigError> {
        let variable = "EKS_ROLE_ARNS";
        let text = self.optional(variable).unwrap_or_default();
        let roles: Vec<String> =
            text.split(',').map(|role| role.trim().to_owned()).filter(|role| !role.is_empty()).collect();
        for role in &roles {
            let parts: Vec<&str> = role.split(':').collect();
            let fits = matches!(parts[..], ["arn", _, "iam", "", _, name] if name.starts_with("role/"));
            if !fits {
                let allowed = "ARNs of IAM roles with commas between".to_owned();
                return Err(ConfigError::Wrong { variable, value: text, allowed });
            }
        }
        let external_id = self.optional("EKS_EXTERNAL_ID");
        if external_id.is_none() && !roles.is_empty() {
            return Err(ConfigError::Missing("EKS_EXTERNAL_ID"));
        }
        Ok((roles, external_id))
    }

    /// Without the slash at its end `prod/clusters` and the id `x` would share a
    /// name with what an IAM policy for `prod/clusters/*` does not cover.
    fn secret_prefix(&self) -> Result<String, ConfigError> {
        let variable = "SECRET_PREFIX";
        let value = self.required(variable)?;
        // A name has at most 512 characters; an id has 100, and `/credentials` follows.
        let fits = value.len() <= 400 && value.ends_with('/') && !value.starts_with('/');
        if fits && value.chars().all(|c| c == '/' || super::vault::is_name_char(c)) {
            return Ok(value);
        }
        let allowed = "up to 400 of A-Z a-z 0-9 / _ + = . @ -, begin with none and end with one /".to_owned();
        Err(ConfigError::Wrong { variable, value, allowed })
    }

    fn access(&self) -> Result<Access, ConfigError> {
        let variable = "AWS_ENDPOINT_URL";
        let endpoint_url = self.optional(variable);
        if let Some(value) = endpoint_url.as_ref().filter(|url| !url.starts_with("http")) {
            let allowed = "an http:// or https:// address".to_owned();
            return Err(ConfigError::Wrong { variable, value: value.clone(), allowed });
        }
        Ok(Access {
            region: self.required("AWS_REGION")?,
            access_key_id: self.required("AWS_ACCESS_KEY_ID")?,
            secret_access_key: self.required("AWS_SECRET_ACCESS_KEY")?.into(),
            session_token: self.optional("AWS_SESSION_TOKEN").map(SecretString::from),
            endpoint_url,
        })
    }

    /// `RUST_LOG` where it is set; else the level chosen for the function in Lambda.
    fn log(&self) -> Result<Targets, ConfigError> {
        let variable = "RUST_LOG";
        if let Some(value) = self.optional(variable) {
            return Targets::from_str(&value).map_err(|_| {
                let allowed = "a level, or target=level with commas between".to_owned();
                ConfigError::Wrong { variable, value, allowed }
            });
        }
        let variable = "AWS_LAMBDA_LOG_LEVEL";
        let level = match self.optional(variable) {
            None => LevelFilter::INFO,
            // Lambda knows a level more than we do.
            Some(value) if value.eq_ignore_ascii_case("fatal") => LevelFilter::ERROR,
            Some(value) => value.parse().map_err(|_| {
                let allowed = "TRACE, DEBUG, INFO, WARN, ERROR or FATAL".to_owned();
                ConfigError::Wrong { variable, value, allowed }
            })?,
        };
        Ok(Targets::new().with_default(level))
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use tracing::Level;

    use super::*;

    const FULL: &[(&str, &str)] = &[
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "very-secret"),
        ("AWS_SESSION_TOKEN", "session-secret"),
        ("DEPLOYMENTS_TABLE", "deployments"),
        ("REGISTRY_TABLE", "registry"),
        ("SECRET_PREFIX", "monitor/clusters/"),
        ("EVENT_BUS_NAME", "monitor-deployments"),
        ("ALLOWED_API_SERVER_CIDRS", ""),
        ("STATE_MACHINE_ARN", MACHINE),
        ("STACK_NAME", "monitor"),
        ("SECRET_KMS_KEY_ID", ""),
        ("EKS_ROLE_ARNS", ""),
        ("EKS_EXTERNAL_ID", ""),
    ];

    const MACHINE: &str = "arn:aws:states:eu-central-1:123456789012:stateMachine:monitor";
    const ROLES: &str = "arn:aws:iam::1:role/one, arn:aws:iam::2:role/path/two,";

    fn find(list: &[(&str, &str)], name: &str) -> Option<String> {
        list.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    fn check(changes: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::read(|name| find(changes, name).or_else(|| find(FULL, name)))
    }

    fn register(changes: &[(&str, &str)]) -> Result<RegisterConfig, ConfigError> {
        RegisterConfig::read(|name| find(changes, name).or_else(|| find(FULL, name)))
    }

    #[test]
    fn reads_everything_and_fills_in_the_defaults() {
        let config = check(&[]).unwrap();
        assert_eq!(config.deployments_table, "deployments");
        assert_eq!(config.registry_table, "registry");
        assert_eq!(config.secret_prefix, "monitor/clusters/");
        assert_eq!(config.event_bus, "monitor-deployments");
        assert_eq!((config.timeout_secs, config.record_ttl_days), (300, 90));
        assert_eq!(config.allowed_api_server_cidrs, None);
        assert_eq!(config.access.endpoint_url, None);
        assert_eq!(config.access.session_token.unwrap().expose_secret(), "session-secret");

        let config = check(&[
            ("DEPLOY_MONITOR_TIMEOUT_SECS", "7200"),
            ("RECORD_TTL_DAYS", " 1 "),
            ("ALLOWED_API_SERVER_CIDRS", "10.0.0.0/8,192.0.2.7/32"),
            ("AWS_ENDPOINT_URL", "http://localhost:4566"),
        ])
        .unwrap();
        assert_eq!((config.timeout_secs, config.record_ttl_days), (7_200, 1));
        assert_eq!(config.allowed_api_server_cidrs.as_deref(), Some("10.0.0.0/8,192.0.2.7/32"));
        assert_eq!(config.access.endpoint_url.as_deref(), Some("http://localhost:4566"));
    }

    #[test]
    fn the_register_function_has_what_it_needs_of_its_own() {
        let config = register(&[]).unwrap();
        assert_eq!((config.state_machine_arn.as_str(), config.secret_kms_key_id), (MACHINE, None));
        let shared = config.shared;
        assert_eq!((shared.stack_name.as_str(), shared.timeout_secs), ("monitor", 300));
        assert_eq!((shared.eks_role_arns, shared.eks_external_id), (Vec::new(), None));

        let config =
            register(&[("SECRET_KMS_KEY_ID", "alias/monitor"), ("DEPLOY_MONITOR_TIMEOUT_SECS", "60")]);
        let config = config.unwrap();
        assert_eq!(config.secret_kms_key_id.as_deref(), Some("alias/monitor"));
        assert_eq!(config.shared.timeout_secs, 60);
    }

    #[test]
    fn each_function_says_what_is_missing() {
        let both = [
            "AWS_REGION",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "DEPLOYMENTS_TABLE",
            "REGISTRY_TABLE",
            "SECRET_PREFIX",
            "EVENT_BUS_NAME",
            "STACK_NAME",
        ];
        let register_only = ["STATE_MACHINE_ARN"];
        for missing in both.into_iter().chain(register_only) {
            let known = |name: &str| find(FULL, name).filter(|_| name != missing);
            let refused = RegisterConfig::read(known).unwrap_err();
            assert_eq!(refused.to_string(), format!("{missing} is not set"));
            let checked = Config::read(known).map(drop).map_err(|error| error.to_string());
            let needed = both.contains(&missing);
            assert_eq!(checked, if needed { Err(format!("{missing} is not set")) } else { Ok(()) });
        }
    }

    #[test]
    fn roles_come_with_an_external_id() {
        let roles = ["arn:aws:iam::1:role/one", "arn:aws:iam::2:role/path/two"];
        let both = [("EKS_ROLE_ARNS", ROLES), ("EKS_EXTERNAL_ID", "stack-4711")];
        let (ours, theirs) = (check(&both).unwrap(), register(&both).unwrap());
        assert_eq!(
            (ours.eks_role_arns, ours.eks_external_id.as_deref()),
            (roles.map(str::to_owned).to_vec(), Some("stack-4711"))
        );
        assert_eq!(theirs.shared.eks_role_arns, roles);
        let refused = ConfigError::Missing("EKS_EXTERNAL_ID");
        assert_eq!(check(&both[..1]).unwrap_err(), refused);
        assert_eq!(register(&both[..1]).unwrap_err(), refused);
        assert!(check(&both[1..]).unwrap().eks_role_arns.is_empty());
        for wrong in [
            "*",
            "arn:aws:iam::1:user/one",
            "arn:aws:sts::1:assumed-role/one/two",
            "one,arn:aws:iam::1:role/one",
        ] {
            let refused = check(&[("EKS_ROLE_ARNS", wrong), both[1]]).unwrap_err();
            assert_eq!(
                refused.to_string(),
                format!("EKS_ROLE_ARNS is {wrong:?}; it must be ARNs of IAM roles with commas between")
            );
        }
    }

    #[test]
    fn the_state_machine_is_named_without_version_or_alias() {
        for wrong in ["monitor", &format!("{MACHINE}:1"), &MACHINE.replace("stateMachine", "execution")] {
            let refused = register(&[("STATE_MACHINE_ARN", wrong)]).unwrap_err().to_string();
            assert!(refused.starts_with("STATE_MACHINE_ARN is \"") && refused.contains(wrong), "{refused}");
        }
    }

    #[test]
    fn an_error_names_the_variable_and_the_bad_value() {
        for (variable, value, message) in [
            ("EVENT_BUS_NAME", " ", "EVENT_BUS_NAME is not set"),
            ("AWS_SECRET_ACCESS_KEY", "", "AWS_SECRET_ACCESS_KEY is not set"),
            (
                "DEPLOY_MONITOR_TIMEOUT_SECS",
                "9",
                "DEPLOY_MONITOR_TIMEOUT_SECS is \"9\"; it must be a whole number from 10 to 7200",
            ),
            (
                "DEPLOY_MONITOR_TIMEOUT_SECS",
                "7201",
                "DEPLOY_MONITOR_TIMEOUT_SECS is \"7201\"; it must be a whole number from 10 to 7200",
            ),
            (
                "RECORD_TTL_DAYS",
                "ten",
                "RECORD_TTL_DAYS is \"ten\"; it must be a whole number from 1 to 3650",
            ),
            (
                "SECRET_PREFIX",
                "monitor/clusters",
                "SECRET_PREFIX is \"monitor/clusters\"; \
                 it must be up to 400 of A-Z a-z 0-9 / _ + = . @ -, begin with none and end with one /",
            ),
            (
                "AWS_ENDPOINT_URL",
                "localhost:4566",
                "AWS_ENDPOINT_URL is \"localhost:4566\"; it must be an http:// or https:// address",
            ),
            (
                "RUST_LOG",
                "aws=loud",
                "RUST_LOG is \"aws=loud\"; it must be a level, or target=level with commas between",
            ),
            (
                "AWS_LAMBDA_LOG_LEVEL",
                "loud",
                "AWS_LAMBDA_LOG_LEVEL is \"loud\"; it must be TRACE, DEBUG, INFO, WARN, ERROR or FATAL",
            ),
        ] {
            assert_eq!(check(&[(variable, value)]).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn the_level_is_ours_then_lambdas_then_info() {
        let level = |changes: &[(&str, &str)], target| {
            let log = check(changes).unwrap().log;
            [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR]
                .into_iter()
                .find(|level| log.would_enable(target, level))
        };
        assert_eq!(level(&[], "monitor"), Some(Level::INFO));
        assert_eq!(level(&[("AWS_LAMBDA_LOG_LEVEL", "DEBUG")], "monitor"), Some(Level::DEBUG));
        assert_eq!(level(&[("AWS_LAMBDA_LOG_LEVEL", "FATAL")], "monitor"), Some(Level::ERROR));
        let both = [("AWS_LAMBDA_LOG_LEVEL", "DEBUG"), ("RUST_LOG", "warn,monitor::check=trace")];
        assert_eq!(level(&both, "monitor"), Some(Level::WARN));
        assert_eq!(level(&both, "monitor::check"), Some(Level::TRACE));
    }

    #[test]
    fn what_is_printed_holds_no_secret() {
        let text = format!("{:?}", check(&[]).unwrap());
        assert!(!text.contains("secret-") && !text.contains("-secret"), "{text}");
    }
}
