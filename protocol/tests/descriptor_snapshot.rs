//! The wire form as a committed artefact: every field, enum value and method of every `.proto` file,
//! one a line, must be what `descriptors.snap` says. A changed or reused number is thereby a line in
//! a review. `UPDATE_SNAPSHOTS=1` writes the file anew.

use std::{env, fs, path::Path};

use protobuf::{
    descriptor::{
        DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
        field_descriptor_proto::{Label, Type},
    },
    reflect::FileDescriptor,
};
use seed_protocol::{kata, seed};

fn files() -> [&'static FileDescriptor; 7] {
    [
        kata::agent::file_descriptor(),
        kata::csi::file_descriptor(),
        kata::health::file_descriptor(),
        kata::oci::file_descriptor(),
        kata::types::file_descriptor(),
        seed::management::file_descriptor(),
        seed::v1::file_descriptor(),
    ]
}

/// `name number type label` for a field, `name input output` for a method, `name number` for an enum
/// value; in the order of the file.
fn describe(file: &FileDescriptorProto) -> Vec<String> {
    let mut lines = vec![format!("# {}", file.name())];
    let package = file.package();
    for service in &file.service {
        for method in &service.method {
            let (input, output) = (bare(method.input_type()), bare(method.output_type()));
            let (service, method) = (service.name(), method.name());
            lines.push(format!("{package}.{service}/{method} {input} {output}"));
        }
    }
    for message in &file.message_type {
        describe_message(&mut lines, package, message);
    }
    for enumeration in &file.enum_type {
        describe_enum(&mut lines, package, enumeration);
    }
    lines
}

fn describe_message(lines: &mut Vec<String>, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    if message.field.is_empty() {
        lines.push(format!("{name} empty"));
    }
    for field in &message.field {
        let (kind, label) = (kind(field), label(field));
        let (field, number) = (field.name(), field.number());
        lines.push(format!("{name}.{field} {number} {kind} {label}"));
    }
    for nested in &message.nested_type {
        describe_message(lines, &name, nested);
    }
    for enumeration in &message.enum_type {
        describe_enum(lines, &name, enumeration);
    }
}

fn describe_enum(lines: &mut Vec<String>, scope: &str, enumeration: &EnumDescriptorProto) {
    for value in &enumeration.value {
        let (name, value, number) = (enumeration.name(), value.name(), value.number());
        lines.push(format!("{scope}.{name}:{value} {number}"));
    }
}

fn kind(field: &FieldDescriptorProto) -> String {
    match field.type_() {
        Type::TYPE_MESSAGE | Type::TYPE_ENUM => bare(field.type_name()).to_owned(),
        scalar => format!("{scalar:?}")
            .trim_start_matches("TYPE_")
            .to_lowercase(),
    }
}

fn label(field: &FieldDescriptorProto) -> &'static str {
    match field.label() {
        Label::LABEL_REPEATED => "repeated",
        _ if field.proto3_optional() => "optional",
        _ if field.has_oneof_index() => "oneof",
        _ => "single",
    }
}

/// A type's name without the dot that says "from the root".
fn bare(name: &str) -> &str {
    name.trim_start_matches('.')
}

#[test]
fn the_wire_form_is_the_committed_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/descriptors.snap");
    let actual: Vec<String> = files()
        .iter()
        .flat_map(|file| describe(file.proto()))
        .collect();
    if env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(&path, actual.join("\n") + "\n").unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    let committed: Vec<&str> = text.lines().collect();
    let gone: Vec<_> = committed
        .iter()
        .filter(|line| !actual.iter().any(|a| a == *line))
        .collect();
    let added: Vec<_> = actual
        .iter()
        .filter(|line| !committed.contains(&line.as_str()))
        .collect();
    assert!(
        actual == committed,
        "the wire form changed; if that is meant, run with UPDATE_SNAPSHOTS=1\n\
         gone: {gone:#?}\nadded: {added:#?}"
    );
}
