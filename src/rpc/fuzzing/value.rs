//! The user's types: arguments, replies and faults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::fuzzing::Target;
use crate::rpc::value::{decode_result, encode_result};

pub(crate) const TARGET: Target = Target {
    name: "value",
    run,
    seeds,
    // A byte can be an element of a sequence, whose type is larger in memory; a sequence is given
    // room before it is filled, at most 1 MiB by serde.
    memory_bytes_max: |bytes| 256 * bytes + 2 * 1024 * 1024,
};

/// One of everything that serde knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Shape {
    yes: bool,
    small: i8,
    large: u128,
    letter: char,
    text: String,
    maybe: Option<Box<Shape>>,
    pair: (u16, i64),
    named: Named,
    numbers: Vec<u32>,
    nothings: Vec<()>,
    by_name: BTreeMap<String, Tree>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Named(u64);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Tree {
    Branch { left: Box<Tree>, right: Box<Tree> },
    Leaf,
    Many(Vec<Tree>),
    Pair(Box<Tree>, u8),
    Word(String),
}

fn run(bytes: &[u8]) {
    let Ok(read) = decode_result::<Shape, Tree>(bytes) else {
        return;
    };
    let written = encode_result(read.as_ref()).expect("what was read is written");
    let again = decode_result::<Shape, Tree>(&written);
    assert_eq!(again, Ok(read));
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let shape = |maybe| Shape {
        yes: true,
        small: -1,
        large: u128::MAX,
        letter: 'é',
        text: "text".to_owned(),
        maybe,
        pair: (300, -70_000),
        named: Named(u64::MAX),
        numbers: vec![1, 2, 300, 70_000],
        nothings: vec![(); 3],
        by_name: BTreeMap::from([
            ("leaf".to_owned(), Tree::Leaf),
            ("word".to_owned(), Tree::Word("w".to_owned())),
        ]),
    };
    let pair = Tree::Pair(Box::new(Tree::Leaf), 7);
    let branch = Tree::Branch {
        left: Box::new(pair.clone()),
        right: Box::new(Tree::Many(vec![Tree::Leaf, pair])),
    };
    let of = |result: Result<Shape, Tree>| {
        let bytes = encode_result(result.as_ref());
        bytes.expect("a seed is written").to_vec()
    };
    vec![
        ("reply", of(Ok(shape(None)))),
        ("reply-nested", of(Ok(shape(Some(Box::new(shape(None))))))),
        ("fault", of(Err(branch))),
        // A fault that is a pair whose first is a pair, and so on.
        ("fault-deep", [vec![1], vec![3; 400]].concat()),
        ("fault-wide", vec![1, 2, 5, 1, 1, 1, 1, 1]),
    ]
}
