package cilium

import (
	"fmt"

	"github.com/Masterminds/semver/v3"
)

// The minors of Cilium 1 that mutual authentication can be had with. Before the first the
// agent's command is not called cilium-dbg, by which its status and its authenticated pairs
// are read; after the last SPIRE is no longer asked (https://github.com/cilium/cilium/issues/47132).
const (
	firstSPIREMinor = 15
	lastSPIREMinor  = 20
)

// firstDeepPatternMinor is the first minor that takes "**." in a name's pattern for names of
// any depth: https://github.com/cilium/cilium/pull/43420.
const firstDeepPatternMinor = 19

// CheckVersion is nil for a version of Cilium that this package installs with mutual
// authentication: any release of 1.15 to 1.20, whole ("1.19.7"), with or without a leading
// "v". The error says what is wrong with another one. It is pure: whether there is such a
// release is not asked.
func CheckVersion(version string) error {
	v, err := semver.NewVersion(version)
	if err != nil || !whole(version, v) {
		return fmt.Errorf("cilium: version %q: want a whole version such as %s", version, DefaultVersion)
	}
	switch major, minor := v.Major(), v.Minor(); {
	case major != 1 || minor > lastSPIREMinor:
		return fmt.Errorf("cilium: version %s: mutual authentication through SPIRE is removed after 1.%d (cilium#47132): pin a 1.%[2]d release or leave TrustDomain empty", version, lastSPIREMinor)
	case minor < firstSPIREMinor:
		return fmt.Errorf("cilium: version %s: its agent has no command cilium-dbg, by which status and authenticated pairs are read: take 1.%d or later, up to 1.%d", version, firstSPIREMinor, lastSPIREMinor)
	}
	return nil
}

// MatchesDeepNames says whether that version, one that CheckVersion takes, reads the pattern
// "**.cluster.local" as names of any depth, as the lookups of a workload that may connect to
// hosts outside need it. Those before 1.19 read it as names of one more label alone.
func MatchesDeepNames(version string) bool {
	v, err := semver.NewVersion(version)
	return err == nil && v.Minor() >= firstDeepPatternMinor
}

// whole says that a text is all of a version that an image's tag can have.
func whole(text string, v *semver.Version) bool {
	return v.Metadata() == "" && (text == v.String() || text == "v"+v.String())
}
