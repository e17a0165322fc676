//! What the fuzz targets do (`fuzz/bodies.rs`), over the inputs that are kept in `fuzz/corpus`.

#[path = "../fuzz/bodies.rs"]
mod bodies;

#[test]
fn every_input_is_taken_or_refused_as_it_is_known_to_be() {
    let targets = bodies::TARGETS.map(|(name, _)| name);
    // A screen takes everything; what has no zero byte is no input of its.
    seed_corpus::check(env!("CARGO_MANIFEST_DIR"), &targets, bodies::run);
}
