package cilium

import (
	"strings"
	"testing"
)

func TestCheckVersion(t *testing.T) {
	for version, want := range map[string]string{ // "" is fine
		DefaultVersion: "", "v1.20.0": "", "1.19.7": "", "1.15.0": "", "1.20.0-rc.1": "",
		"": "whole version", "1.20": "whole version", "v": "whole version", "latest": "whole version", "1.20.2 ": "whole version",
		"vv1.20.2": "whole version", "1.20.02": "whole version", "1.20.2+k3s": "whole version", "1.20.x": "whole version", "1.20.2\n::error::x": "whole version",
		"1.21.0": "removed after 1.20", "2.0.0": "removed after 1.20", "0.9.1": "removed after 1.20",
		"1.14.19": "cilium-dbg", "v1.9.0": "take 1.15 or later, up to 1.20",
	} {
		err := CheckVersion(version)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", version, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q is said on several lines: %v", version, err)
		}
	}
}

func TestMatchesDeepNames(t *testing.T) {
	for version, want := range map[string]bool{"1.20.2": true, "v1.19.0": true, "1.18.6": false, "1.15.19": false, "none": false} {
		if got := MatchesDeepNames(version); got != want {
			t.Errorf("%s: %t", version, got)
		}
	}
}
