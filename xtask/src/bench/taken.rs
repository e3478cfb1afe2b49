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

    /// Measures each program once, in an order of chance: what a process leaves to the kernel burdens the
    /// next one.
    ///
    /// # Errors
    ///
    /// When ours cannot be measured.
    pub fn each(
        &mut self,
        mut measure: impl FnMut(&Program<'_>, &mut T) -> Result<()>,
    ) -> Result<()> {
        let mut order: Vec<usize> = (0..self.0.len()).collect();
        fastrand::shuffle(&mut order);
        let mut missing = Vec::new();
        for index in order {
            let (program, taken) = &mut self.0[index];
            match measure(program, taken) {
                Ok(()) => {}
                Err(error) if index == 0 => return Err(error),
                Err(error) => {
                    leave_out(program.name(), &error);
                    missing.push(index);
                }
            }
        }
        let mut index = 0..;
        self.0
            .retain(|_| index.next().is_some_and(|index| !missing.contains(&index)));
        Ok(())
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
    fn without_ours_there_is_nothing_to_compare() {
        let programs = programs();
        let mut taken = Taken::<u32>::new(&programs);
        let outcome = taken.each(|program, _| match program {
            Program::Floor(_) => broken(),
            _ => Ok(()),
        });
        assert!(outcome.is_err());
    }
}
