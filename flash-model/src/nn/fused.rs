//! Matrices that a checkpoint has as one tensor, one above the other, and a layer as several.

use std::ops::Range;

/// A matrix that is some rows of a tensor. Paths are those below a layer.
#[derive(Debug, Clone)]
pub(crate) struct Fused {
    part: &'static str,
    whole: &'static str,
    rows: Range<u64>,
    n_rows: u64,
}

/// Where a tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The tensor of the checkpoint.
    pub name: String,
    /// Which rows of it, and how many it has; none if it is all of it.
    pub rows: Option<(Range<u64>, u64)>,
}

impl Fused {
    /// The parts of a tensor, from the first row to the last, each with its number of rows.
    pub(crate) fn parts(whole: &'static str, parts: &[(&'static str, i32)]) -> Vec<Self> {
        let n_rows = parts.iter().map(|(_, n_rows)| *n_rows as u64).sum();
        let mut start = 0;
        let fused = parts.iter().map(|&(part, part_rows)| {
            let rows = start..start + part_rows as u64;
            start = rows.end;
            Self { part, whole, rows, n_rows }
        });
        fused.collect()
    }

    /// The path of the matrix that has the one at `path`: itself, if it is no part of another.
    pub(crate) fn whole_path(fused: &[Self], path: &str) -> String {
        match Self::find(fused, path) {
            Some((above, found)) => format!("{above}{}", found.whole),
            None => path.to_owned(),
        }
    }

    /// Where the tensor lies that a layer calls `name`, of a matrix: its weight, scales, or others.
    pub(crate) fn place(fused: &[Self], name: &str) -> Place {
        let found = name.rsplit_once('.').and_then(|(path, tensor)| Some((Self::find(fused, path)?, tensor)));
        match found {
            Some(((above, found), tensor)) => Place {
                name: format!("{above}{}.{tensor}", found.whole),
                rows: Some((found.rows.clone(), found.n_rows)),
            },
            None => Place { name: name.to_owned(), rows: None },
        }
    }

    /// The part at `path`, and the path above it.
    fn find<'p, 'f>(fused: &'f [Self], path: &'p str) -> Option<(&'p str, &'f Self)> {
        let above = |found: &Self| path.strip_suffix(found.part).filter(|above| above.ends_with('.'));
        fused.iter().find_map(|found| Some((above(found)?, found)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_and_end_where_the_tensor_ends() {
        let fused = Fused::parts("a.qkv", &[("a.q", 8), ("a.k", 2), ("a.v", 3)]);
        let place = |name: &str| Fused::place(&fused, name);
        let rows = |start, end| Place { name: "layer.0.a.qkv.scales".into(), rows: Some((start..end, 13)) };
        assert_eq!(place("layer.0.a.q.scales"), rows(0, 8));
        assert_eq!(place("layer.0.a.k.scales"), rows(8, 10));
        assert_eq!(place("layer.0.a.v.scales"), rows(10, 13));
        assert_eq!(Fused::whole_path(&fused, "layer.0.a.k"), "layer.0.a.qkv");
    }

    #[test]
    fn what_is_no_part_lies_under_its_own_name() {
        let fused = Fused::parts("a.qkv", &[("a.q", 8)]);
        for name in ["layer.0.a.o.weight", "layer.0.xa.q.weight", "norm", "layer.0.a.q.norm.weight"] {
            assert_eq!(Fused::place(&fused, name), Place { name: name.into(), rows: None });
        }
    }
}
