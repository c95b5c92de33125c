//! Marks in an instance's row by which the next daemon finds its way back: keys of [`super::update::is_own`].

use super::Context;
use super::error::Error;
use crate::names::InstanceKey;

/// Sets a mark, or takes it away.
pub(super) async fn set(
    context: &Context,
    key: &InstanceKey,
    mark: &'static str,
    value: Option<String>,
) -> Result<(), Error> {
    let key = key.clone();
    context
        .db
        .write(move |tx| {
            let mut record = tx.model().instances.get(&key).map(|r| (**r).clone()).ok_or(Error::NotFound)?;
            match &value {
                Some(value) => record.config.insert(mark.to_owned(), value.clone()),
                None => record.config.remove(mark),
            };
            Ok(tx.put_instance(record)?)
        })
        .await
}
