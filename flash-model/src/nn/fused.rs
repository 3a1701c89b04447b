//! Matrices that a checkpoint stores fused by rows into one tensor, such as `qkv_proj`, and that layers use separately.

use std::ops::Range;

/// A matrix stored as a range of rows of a fused tensor. Paths are relative to the layer.
#[derive(Debug, Clone)]
pub(crate) struct Fused {
    part: &'static str,
    whole: &'static str,
    rows: Range<u64>,
    n_rows: u64,
}

/// The location of a tensor in the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Name of the stored tensor.
    pub name: String,
    /// Range of its rows, and its number of rows; `None` for the whole tensor.
    pub rows: Option<(Range<u64>, u64)>,
}

impl Place {
    /// Selects `rows` out of the `n_rows` at this place.
    pub(crate) fn rows(self, rows: &Range<u64>, n_rows: u64) -> Self {
        let (start, n_rows) = self.rows.map_or((0, n_rows), |(all, n_rows)| (all.start, n_rows));
        Self { rows: Some((start + rows.start..start + rows.end, n_rows)), ..self }
    }
}

impl Fused {
    /// Returns the parts of a fused tensor; `parts` lists them in row order, each with its number of rows.
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

    /// Returns the path of the fused matrix that contains `path`, or `path` itself if it is not fused.
    pub(crate) fn whole_path(fused: &[Self], path: &str) -> String {
        match Self::find(fused, path) {
            Some((above, found)) => format!("{above}{}", found.whole),
            None => path.to_owned(),
        }
    }

    /// Returns the location of the tensor `name` (weight, scales, …) of a layer.
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

    /// Returns the part at `path`, with the prefix of the layer.
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
    fn rows_of_a_part_are_counted_from_its_start() {
        let fused = Fused::parts("a.qkv", &[("a.q", 8), ("a.k", 4)]);
        let place = |name: &str, n_rows| Fused::place(&fused, name).rows(&(1..3), n_rows).rows;
        assert_eq!(place("layer.0.a.k.scales", 4), Some((9..11, 12)));
        assert_eq!(place("layer.0.a.o.scales", 5), Some((1..3, 5)));
    }

    #[test]
    fn tensors_that_are_not_fused_keep_their_name() {
        let fused = Fused::parts("a.qkv", &[("a.q", 8)]);
        for name in ["layer.0.a.o.weight", "layer.0.xa.q.weight", "norm", "layer.0.a.q.norm.weight"] {
            assert_eq!(Fused::place(&fused, name), Place { name: name.into(), rows: None });
        }
    }
}
