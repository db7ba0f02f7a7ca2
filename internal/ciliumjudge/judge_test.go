package ciliumjudge

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"slices"

	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/identity/identitymanager"
	ipcache "github.com/cilium/cilium/pkg/ipcache/types"
	cilium "github.com/cilium/cilium/pkg/k8s/apis/cilium.io/v2"
	"github.com/cilium/cilium/pkg/labels"
	"github.com/cilium/cilium/pkg/policy"
	"github.com/cilium/cilium/pkg/policy/api"
	"github.com/cilium/cilium/pkg/policy/types"
	"github.com/cilium/cilium/pkg/policy/utils"
	"github.com/cilium/cilium/pkg/u8proto"
	k8syaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// judge is the policy engine of Cilium's agent. It has read policies and knows of peers.
type judge struct {
	repo     *policy.Repository
	ids      map[*peer]*identity.Identity
	policies map[*peer]*policy.EndpointPolicy // what the agent would write into the peer's BPF map
}

var quiet = slog.New(slog.DiscardHandler)

func newJudge(stream []byte, peers []*peer) (*judge, error) {
	entries, err := read(stream)
	if err != nil {
		return nil, err
	}
	j := &judge{ids: map[*peer]*identity.Identity{}, policies: map[*peer]*policy.EndpointPolicy{}}
	known := identity.ListReservedIdentities()
	for _, p := range peers {
		lbls := maps.Clone(p.labels)
		for _, host := range p.hosts {
			if err := learn(lbls, host, entries); err != nil {
				return nil, err
			}
		}
		id := identity.NewIdentity(p.id, lbls)
		j.ids[p], known[id.ID] = id, id.LabelArray
	}
	j.repo = policy.NewPolicyRepository(quiet, known, nil, nil, identitymanager.NewIDManager(quiet), nil)
	j.repo.UpdateIdentities(known, nil)
	for of, rules := range entries {
		j.repo.ReplaceByResource(rules, of)
	}
	// As policy.LookupFlow does it, but once for each peer and not for each flow.
	for p, id := range j.ids {
		resolved, _, err := j.repo.ComputeSelectorPolicy(id)
		if err != nil {
			return nil, fmt.Errorf("policy of %s: %w", p, err)
		}
		j.policies[p] = resolved.DistillPolicy(quiet, owner{}, map[string]uint16{policy.FallbackRedirectID: math.MaxUint16})
		if err := j.policies[p].Ready(); err != nil {
			return nil, err
		}
		j.policies[p].Detach(quiet)
		resolved.Supersede()
	}
	return j, nil
}

// owner is a peer's endpoint, as far as the engine asks of it.
type owner struct{ policy.PolicyOwner }

func (owner) GetID() uint64                               { return 0 }
func (owner) IsHost() bool                                { return false }
func (owner) PolicyDebug(string, ...any)                  {}
func (owner) PreviousMapStateSizes() policy.MapStateSizes { return policy.MapStateSizes{} }

// read takes policies from YAML as the agent takes them from the API server.
func read(stream []byte) (map[ipcache.ResourceID]types.PolicyEntries, error) {
	all := map[ipcache.ResourceID]types.PolicyEntries{}
	for docs := k8syaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(stream))); ; {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		var p cilium.CiliumNetworkPolicy
		if err := yaml.UnmarshalStrict(doc, &p); err != nil {
			return nil, err
		}
		rules, err := p.Parse(quiet, cluster)
		if err != nil {
			return nil, fmt.Errorf("policy %s: %w", p.Name, err)
		}
		of := ipcache.NewResourceID(ipcache.ResourceKindCNP, p.Namespace, p.Name)
		if _, twice := all[of]; twice {
			return nil, fmt.Errorf("policy %s is there twice", of)
		}
		all[of] = utils.RulesToPolicyEntries(rules)
	}
}

// learn is what the agent does once a pod has looked a host up: the host's address gets a
// label for each name in the policies that the host fits.
func learn(address labels.Labels, host string, policies map[ipcache.ResourceID]types.PolicyEntries) error {
	for _, rules := range policies {
		for _, rule := range rules {
			for _, s := range rule.L3 {
				name, isName := s.GetFQDNSelector()
				if !isName {
					continue
				}
				fits, err := name.ToRegex()
				if err != nil {
					return err
				}
				if fits.MatchString(host + ".") {
					label := name.IdentityLabel()
					address[label.Key] = label
				}
			}
		}
	}
	return nil
}

// egress is what the policies of the one who connects say, ingress what those of the
// other do.
func (j *judge) egress(from, to *peer, p port) verdict {
	return j.look(from, policy.EgressKey().WithIdentity(to.id).WithPortProto(p.proto, p.number))
}

func (j *judge) ingress(from, to *peer, p port) verdict {
	return j.look(to, policy.IngressKey().WithIdentity(from.id).WithPortProto(p.proto, p.number))
}

func (j *judge) look(at *peer, key policy.Key) verdict {
	entry, _, _ := j.policies[at].Lookup(key)
	return verdict{
		allowed:       entry.IsAllow(),
		authenticated: entry.AuthRequirement.AuthType() == types.AuthTypeSpire,
		proxied:       entry.IsRedirectEntry(),
	}
}

// guarded says whether policies hold for what the peer sends, and for what it gets.
func (j *judge) guarded(p *peer) (egress, ingress bool) {
	resolved := j.policies[p].SelectorPolicy
	return resolved.EgressPolicyEnabled, resolved.IngressPolicyEnabled
}

// mayLookUp says whether the peer's lookup of a name gets through Cilium's DNS proxy, if it
// goes there at all.
func (j *judge) mayLookUp(from *peer, name string) (bool, error) {
	for _, filter := range j.policies[from].SelectorPolicy.RedirectFilters() {
		through := false
		for _, rule := range filter.Policy.L7Rules.DNS {
			selector := api.FQDNSelector(rule)
			fits, err := selector.ToRegex()
			if err != nil {
				return false, err
			}
			through = through || fits.MatchString(name+".")
		}
		if !through {
			return false, nil
		}
	}
	return true, nil
}

// ports are all 65535 of each protocol, by the first of each run of ports for which the
// answers cannot differ: the policies have nothing that begins or ends within it, and the
// intent has no port in it. ICMP has types instead; 8 is the ping.
func (j *judge) ports(in intent) []port {
	firsts := []int{1, dnsPort, dnsPort + 1, keysPort, keysPort + 1}
	for _, e := range in.Edges {
		firsts = append(firsts, int(e.Port.number), int(e.Port.number)+1)
	}
	for _, p := range j.policies {
		for key := range p.Entries() {
			firsts = append(firsts, int(key.DestPort), int(key.EndPort())+1)
		}
	}
	slices.Sort(firsts)
	all := []port{{8, u8proto.ICMP}}
	for _, n := range slices.Compact(firsts) {
		if n >= 1 && n <= math.MaxUint16 {
			all = append(all, tcp(uint16(n)), udp(uint16(n)), port{uint16(n), u8proto.SCTP})
		}
	}
	return all
}

// differences are those between what the policies do and what the intent says: all of them
// or, if there are many, the first.
func differences(in intent, stream []byte) ([]string, error) {
	peers := in.peers()
	j, err := newJudge(stream, peers)
	if err != nil {
		return nil, err
	}
	var all []string
	differ := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	for _, p := range peers {
		if p.namespace == "" {
			continue // no pod
		}
		is := p.workload != ""
		if egress, ingress := j.guarded(p); egress != is || ingress != is {
			differ("%s: policies hold for egress %t, ingress %t; want %t", p, egress, ingress, is)
		}
		if !is {
			continue
		}
		for _, name := range in.names() {
			got, err := j.mayLookUp(p, name)
			if err != nil {
				return nil, err
			}
			if want := in.mayLookUp(p, name); got != want {
				differ("%s looks up %s: allowed %t, want %t", p, name, got, want)
			}
		}
	}
	ports := j.ports(in)
	for _, from := range peers {
		for _, to := range peers {
			if from.workload == "" && to.workload == "" {
				continue // none of the intent's
			}
			if len(all) > 10 {
				return all, nil
			}
			meant := in.meant(from, to)
			for _, p := range ports {
				want, egress, ingress := meant[p], j.egress(from, to, p), j.ingress(from, to, p)
				var got verdict
				if egress.allowed && ingress.allowed {
					got = verdict{true, egress.authenticated || ingress.authenticated, egress.proxied || ingress.proxied}
				}
				if got != want {
					differ("%s → %s:%s: %+v, want %+v", from, to, p, got, want)
				}
				// Two sides that deny are two walls: none may lean on the other's.
				open := from.workload != "" && egress.allowed || to.workload != "" && ingress.allowed
				if !want.allowed && open && from.workload != to.workload {
					differ("%s → %s:%s: egress %+v, ingress %+v, want each to deny", from, to, p, egress, ingress)
				}
			}
		}
	}
	return all, nil
}
