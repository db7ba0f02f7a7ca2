package ciliumjudge

import (
	"testing"

	"github.com/cilium/cilium/pkg/identity/identitymanager"
	"github.com/cilium/cilium/pkg/policy"
	"github.com/cilium/cilium/pkg/policy/types"
)

// The judge keeps a peer's policy for all flows, and looks at both sides apart. What it
// finds is what Cilium's own LookupFlow says of the flow.
func TestJudgeAgreesWithLookupFlow(t *testing.T) {
	in, stream := derived(t, everything)
	peers := in.peers()
	j, err := newJudge(stream, peers)
	if err != nil {
		t.Fatal(err)
	}
	allowed := 0
	for _, from := range peers {
		for _, to := range peers {
			if from.workload == "" && to.workload == "" {
				continue
			}
			for _, p := range []port{tcp(53), tcp(443), tcp(8000), udp(8000), tcp(8443)} {
				flow := types.Flow{From: j.ids[from], To: j.ids[to], Proto: p.proto, Dport: p.number}
				want, _, _, err := policy.LookupFlow(quiet, j.repo, identitymanager.NewIDManager(quiet), flow)
				if err != nil {
					t.Fatal(err)
				}
				got := j.egress(from, to, p).allowed && j.ingress(from, to, p).allowed
				if got != want.Allowed() {
					t.Errorf("%s → %s:%s: allowed %t, LookupFlow says %s", from, to, p, got, want)
				}
				if got {
					allowed++
				}
			}
		}
	}
	if allowed == 0 {
		t.Error("nothing was allowed")
	}
}
