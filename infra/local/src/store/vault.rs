//! [`Vault`] in the store. What is deleted is gone at once: there is no window in which
//! it could be had back.

use async_trait::async_trait;
use monitor::{
    ports::{ClusterSecret, StoreError, Vault},
    secret,
};
use redb::{TableDefinition, WriteTransaction};
use zeroize::Zeroizing;

use super::{Outcome, Store, Trouble, unwritable};

/// Sealed, by the cluster's id.
const SECRETS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("secrets");

pub(super) fn begin(transaction: &WriteTransaction) -> Result<(), Trouble> {
    transaction.open_table(SECRETS)?;
    Ok(())
}

/// What a secret is sealed for: another cluster's opens nothing.
fn place(cluster_id: &str) -> String {
    format!("clusters/{cluster_id}/credentials")
}

#[async_trait]
impl Vault for Store {
    async fn get(&self, cluster_id: &str) -> Result<Option<ClusterSecret>, StoreError> {
        let id = cluster_id.to_owned();
        let sealed = self
            .look(move |store| {
                let sealed = store.open_table(SECRETS)?.get(id.as_str())?.map(|it| it.value().to_vec());
                Ok(sealed)
            })
            .await?;
        let Some(sealed) = sealed else { return Ok(None) };
        let name = format!("the secret of cluster {cluster_id}");
        let opened = self.0.seal.open(&place(cluster_id), &sealed);
        let text = opened.as_deref().and_then(|it| std::str::from_utf8(it).ok());
        let text =
            text.ok_or_else(|| StoreError::Told(format!("{name} can't be opened; register it anew")))?;
        secret::read(&name, cluster_id, text).map(Some)
    }

    async fn put(&self, cluster_id: &str, secret: &ClusterSecret) -> Result<(), StoreError> {
        let text = secret::write(cluster_id, secret).map(|mut text| {
            // The bytes move, they are not copied.
            Zeroizing::new(std::mem::take(&mut *text).into_bytes())
        });
        let sealed = text.and_then(|text| self.0.seal.close(&place(cluster_id), text));
        let sealed = sealed.ok_or_else(|| unwritable(&format!("the secret of cluster {cluster_id}")))?;
        let id = cluster_id.to_owned();
        self.change(move |store| {
            store.open_table(SECRETS)?.insert(id.as_str(), sealed.as_slice())?;
            Ok(Outcome::Keep(()))
        })
        .await
    }

    async fn delete(&self, cluster_id: &str) -> Result<(), StoreError> {
        let id = cluster_id.to_owned();
        self.change(move |store| {
            store.open_table(SECRETS)?.remove(id.as_str())?;
            Ok(Outcome::Keep(()))
        })
        .await
    }
}
