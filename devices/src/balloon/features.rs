//! What the balloon offers (virtio 1.2 §5.5.3), and the queues that follow from it (§5.5.2).

/// VIRTIO_BALLOON_F_MUST_TELL_HOST: the guest tells before it uses a page of the balloon again.
pub(super) const F_MUST_TELL_HOST: u64 = 1 << 0;
/// VIRTIO_BALLOON_F_STATS_VQ: the guest tells how it uses its memory.
pub const F_STATS_VQ: u64 = 1 << 1;
/// VIRTIO_BALLOON_F_DEFLATE_ON_OOM: the guest may take pages back when it is short of memory.
pub const F_DEFLATE_ON_OOM: u64 = 1 << 2;
/// VIRTIO_BALLOON_F_PAGE_POISON: the guest tells what it fills free pages with.
pub(super) const F_PAGE_POISON: u64 = 1 << 4;
/// VIRTIO_BALLOON_F_REPORTING: the guest tells which pages are free.
pub const F_REPORTING: u64 = 1 << 5;

/// What a user can choose about the balloon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalloonOptions {
    /// Offer VIRTIO_BALLOON_F_DEFLATE_ON_OOM.
    pub deflate_on_oom: bool,
    /// Offer VIRTIO_BALLOON_F_REPORTING.
    pub free_page_reporting: bool,
    /// Offer VIRTIO_BALLOON_F_PAGE_POISON.
    pub page_poison: bool,
}

impl Default for BalloonOptions {
    /// As in QEMU, and reporting: memory comes back without anybody asking.
    fn default() -> Self {
        Self {
            deflate_on_oom: false,
            free_page_reporting: true,
            page_poison: true,
        }
    }
}

impl BalloonOptions {
    /// The feature bits on offer.
    pub(super) fn features(self) -> u64 {
        let optional = [
            (self.deflate_on_oom, F_DEFLATE_ON_OOM),
            (self.page_poison, F_PAGE_POISON),
            (self.free_page_reporting, F_REPORTING),
        ];
        let chosen = optional.iter().filter(|(chosen, _)| *chosen);
        chosen.fold(F_STATS_VQ, |all, (_, feature)| all | feature)
    }
}

/// The names of features, those of the properties that stand for them in QEMU where there are any.
const NAMES: [(u64, &str); 5] = [
    (F_MUST_TELL_HOST, "must-tell-host"),
    (F_STATS_VQ, "guest-stats"),
    (F_DEFLATE_ON_OOM, "deflate-on-oom"),
    (F_PAGE_POISON, "page-poison"),
    (F_REPORTING, "free-page-reporting"),
];

/// The names of the balloon's features among `features`, as QEMU's properties are called.
#[must_use]
pub fn feature_names(features: u64) -> Vec<&'static str> {
    let named = NAMES.iter().filter(|(bit, _)| features & bit != 0);
    named.map(|(_, name)| *name).collect()
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Inflate,
    Deflate,
    Statistics,
    Reporting,
}

/// The queues with these features, in their order: those of features that are not there do not
/// exist, and later ones are numbered without a gap. The specification's table can be read as if each
/// had a number of its own; Linux and QEMU count like this.
pub(super) fn roles(features: u64) -> impl Iterator<Item = Role> {
    let all = [
        (u64::MAX, Role::Inflate),
        (u64::MAX, Role::Deflate),
        (F_STATS_VQ, Role::Statistics),
        (F_REPORTING, Role::Reporting),
    ];
    let present = all
        .into_iter()
        .filter(move |(bit, _)| features & bit != 0 || *bit == u64::MAX);
    present.map(|(_, role)| role)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_of_absent_features_leave_no_gap() {
        let with = |features| roles(features).collect::<Vec<_>>();
        assert_eq!(with(0), [Role::Inflate, Role::Deflate]);
        assert_eq!(
            with(F_REPORTING),
            [Role::Inflate, Role::Deflate, Role::Reporting]
        );
        assert_eq!(
            with(F_STATS_VQ | F_REPORTING),
            [
                Role::Inflate,
                Role::Deflate,
                Role::Statistics,
                Role::Reporting
            ]
        );
    }

    #[test]
    fn offer_is_what_was_chosen_and_statistics() {
        assert_eq!(
            feature_names(BalloonOptions::default().features()),
            ["guest-stats", "page-poison", "free-page-reporting"]
        );
        let all = BalloonOptions {
            deflate_on_oom: true,
            free_page_reporting: true,
            page_poison: false,
        };
        assert_eq!(
            feature_names(all.features()),
            ["guest-stats", "deflate-on-oom", "free-page-reporting"]
        );
    }
}
