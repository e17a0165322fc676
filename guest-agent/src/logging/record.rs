//! An event that is kept: a [`tracing`] event lives no longer than the call that makes it.

use std::fmt;

use tracing::{
    Event, Metadata,
    field::{DisplayValue, Field, Value, Visit, display},
};

/// What an event said, with its fields as text, as the layers of journald and of standard error write them anyway.
#[derive(Debug)]
pub(super) struct Record {
    metadata: &'static Metadata<'static>,
    /// In the order of the metadata's fields; none for one that the event left out.
    values: Vec<Option<DisplayValue<String>>>,
    bytes: usize,
}

impl Record {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        let fields = metadata.fields().len();
        let mut record = Self {
            metadata,
            values: (0..fields).map(|_| None).collect(),
            bytes: size_of::<Self>() + fields * size_of::<Option<DisplayValue<String>>>(),
        };
        event.record(&mut record);
        record
    }

    /// About what it takes while it is kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes the event again, for this thread's dispatcher.
    pub(super) fn say(&self) {
        let values: Vec<Option<&dyn Value>> = self
            .values
            .iter()
            .map(|value| value.as_ref().map(|value| value as &dyn Value))
            .collect();
        let fields = self.metadata.fields();
        Event::dispatch(self.metadata, &fields.value_set_all(&values));
    }

    fn keep(&mut self, field: &Field, text: String) {
        self.bytes += text.len();
        if let Some(value) = self.values.get_mut(field.index()) {
            *value = Some(display(text));
        }
    }
}

impl Visit for Record {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.keep(field, format!("{value:?}"));
    }
}
