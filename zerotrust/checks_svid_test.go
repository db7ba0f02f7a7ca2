package zerotrust

import (
	"strings"
	"testing"
	"time"
)

func TestSoleSVID(t *testing.T) {
	const want = "spiffe://demo.local/ns/99-apps/sa/frontend"
	svid := func(id, end string) string {
		return "SPIFFE ID:\t\t" + id + "\nSVID Valid After:\t2026-11-25 17:30:05 +0000 UTC\nSVID Valid Until:\t" + end + "\nCA #1 Valid Until:\t2026-12-02 17:02:52 +0000 UTC\n\n"
	}
	const later, past = "2026-11-25 18:30:15 +0000 UTC", "2026-11-25 17:59:59 +0000 UTC"
	now := time.Date(2026, 11, 25, 18, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct{ printed, says string }{
		"the one":        {"Received 1 svid after 8ms\n\n" + svid(want, later), ""},
		"none":           {"", "no SVID"},
		"another's":      {svid("spiffe://demo.local/ns/99-apps/sa/backend", later), "sa/backend"},
		"another's too":  {svid(want, later) + svid("spiffe://demo.local/admin", later), "frontend, spiffe://demo.local/admin"},
		"an expired one": {svid(want, past), "expired at 2026-11-25T17:59:59Z"},
		"one of no end":  {svid(want, "soon"), "its end"},
	} {
		said, err := soleSVID(tt.printed, want, now)
		if tt.says == "" && (err != nil || said != "until 2026-11-25T18:30:15Z") || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: %q, %v", name, said, err)
		}
	}
}
