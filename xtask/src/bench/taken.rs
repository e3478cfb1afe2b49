//! What is measured of several programs: ours, which has to be measured, and its peers, of which one
//! that cannot be is named and left out.

use crate::chain;
use crate::error::Result;

use super::program::Program;
use super::table::Figure;

/// What was measured of each program, ours first.
#[derive(Debug)]
pub struct Taken<'a, T>(Vec<(&'a Program<'a>, T)>);

impl<'a, T: Default> Taken<'a, T> {
    /// Nothing yet; the first of `programs` is ours.
    pub fn new(programs: &'a [Program<'a>]) -> Self {
        Self(
            programs
                .iter()
                .map(|program| (program, T::default()))
                .collect(),
        )
    }

    /// Measures each program in turn.
    ///
    /// # Errors
    ///
    /// When ours cannot be measured; then the others are not.
    pub fn each(
        &mut self,
        mut measure: impl FnMut(&Program<'_>, &mut T) -> Result<()>,
    ) -> Result<()> {
        let mut outcome = Ok(());
        let mut is_ours = true;
        self.0.retain_mut(|(program, taken)| {
            let measured = match outcome {
                Ok(()) => measure(program, taken),
                Err(_) => return true,
            };
            match (measured, std::mem::take(&mut is_ours)) {
                (Ok(()), _) => true,
                (Err(error), true) => {
                    outcome = Err(error);
                    true
                }
                (Err(error), false) => {
                    leave_out(program.name(), &error);
                    false
                }
            }
        });
        outcome
    }

    /// One figure of all of them.
    pub fn figure(&self, name: &'static str, unit: &'static str, of: impl Fn(&T) -> f64) -> Figure {
        let mut values = self
            .0
            .iter()
            .map(|(program, taken)| (program.name(), of(taken)));
        let ours = values.next().map_or(0.0, |(_, value)| value);
        let figure = Figure::alone(name, unit, ours);
        values.fold(figure, |figure, (name, value)| figure.beside(name, value))
    }
}

/// Says that a peer is missing in the table, and why.
pub fn leave_out(name: &str, error: &crate::error::Error) {
    eprintln!("{name} is left out: {}", chain(error));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn programs() -> [Program<'static>; 3] {
        [
            Program::Floor("ours".into()),
            Program::Firecracker("one".into()),
            Program::CloudHypervisor("other".into()),
        ]
    }

    fn broken() -> Result<()> {
        Err(Error::Check("broken".to_owned()))
    }

    #[test]
    fn peer_that_cannot_be_measured_is_left_out_and_the_others_are_not() {
        let programs = programs();
        let mut taken = Taken::<u32>::new(&programs);
        for _ in 0..2 {
            taken
                .each(|program, count| {
                    *count += 1;
                    match program {
                        Program::Firecracker(_) => broken(),
                        _ => Ok(()),
                    }
                })
                .unwrap();
        }
        let figure = taken.figure("x", "", |count| (*count).into());
        assert_eq!((figure.value, figure.peers.len()), (2.0, 1));
        assert_eq!(
            (figure.peers[0].name, figure.peers[0].value),
            ("cloud-hypervisor", 2.0)
        );
    }

    #[test]
    fn without_ours_nothing_else_is_measured() {
        let programs = programs();
        let mut taken = Taken::<u32>::new(&programs);
        let mut measured = 0;
        let outcome = taken.each(|_, _| {
            measured += 1;
            broken()
        });
        assert!(outcome.is_err());
        assert_eq!(measured, 1);
    }
}
