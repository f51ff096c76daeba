//! Without default features the package is the guard alone: no dependency, no size, and calls that compile.

mod fixture;

use fixture::{cargo, said};

#[test]
fn without_features_the_package_has_no_dependency() {
    let tree = said(cargo("guard_only", "guard_only").args(["tree", "--edges=all", "--prefix=none"]));
    let packages: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(packages, ["guard_only", "birthmark"], "{tree}");
}

#[test]
fn without_the_heap_a_guard_has_no_size_and_its_calls_compile() {
    let text = said(cargo("guard_only", "guard_only").args(["run", "--quiet"]));
    assert_eq!(text.trim(), "guard=0 owner=8");
}
