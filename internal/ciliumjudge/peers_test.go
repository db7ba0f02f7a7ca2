package ciliumjudge

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/cilium/pkg/identity"
	k8s "github.com/cilium/cilium/pkg/k8s/utils"
	"github.com/cilium/cilium/pkg/labels"
	"github.com/cilium/cilium/pkg/labelsfilter"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// peer is an end of a connection: what Cilium knows of it, which is its labels, and what it
// is to the intent.
type peer struct {
	name   string // for messages
	id     identity.NumericIdentity
	labels labels.Labels

	workload  string   // that it is a pod of; "" for none
	namespace string   // of a pod
	dns, keys bool     // it is kube-dns, or spire-oidc
	outside   bool     // it is what the intent calls outside
	hosts     []string // names that it is the address of
}

func (p *peer) String() string { return p.name }

// cluster is the name of Cilium's cluster. Policies select pods of their own.
const cluster = "kind"

const accountLabel = "io.cilium.k8s.policy.serviceaccount"

// peers are those that connect, in a cluster with the intent's workloads: their pods, who
// they could be taken for, and whoever else there is.
func (in intent) peers() []*peer {
	var all []*peer
	// Cilium itself makes the labels of an identity from those of the pod.
	pod := func(what, namespace, account string, plain map[string]string) *peer {
		sane := k8s.SanitizePodLabels(plain, &metav1.ObjectMeta{Name: namespace}, account, cluster)
		relevant, _ := labelsfilter.Filter(labels.Map2Labels(sane, labels.LabelSourceK8s))
		p := &peer{name: fmt.Sprintf("%s (%s/%s)", what, namespace, account), labels: relevant, namespace: namespace}
		p.keys = namespace == "spire-system" && account == "spire-oidc"
		for _, w := range in.Workloads {
			if w.Namespace == namespace && cmp.Or(w.ServiceAccount, w.Name) == account {
				p.workload = w.Name
			}
		}
		p.id = identity.MinimalNumericIdentity + identity.NumericIdentity(len(all))
		all = append(all, p)
		return p
	}
	namespaces := []string{"kube-system", "spire-system", "elsewhere"}
	hosts := []string{"api.example.com", "www.example.com", "example.com", "example.org"}
	for _, w := range in.Workloads {
		namespaces = append(namespaces, w.Namespace)
	}
	for _, e := range in.Edges {
		if namespace, found := strings.CutPrefix(e.From, "namespace:"); found {
			namespaces = append(namespaces, namespace)
		}
		if host, found := strings.CutPrefix(e.To, "dns:"); found {
			hosts = append(hosts, host)
		}
	}
	slices.Sort(namespaces)
	slices.Sort(hosts)
	namespaces, hosts = slices.Compact(namespaces), slices.Compact(hosts)

	accounts := map[string]bool{}
	for _, w := range in.Workloads {
		account := cmp.Or(w.ServiceAccount, w.Name)
		accounts[account] = true
		pod(w.Name, w.Namespace, account, map[string]string{"app": w.Name})
		pod(w.Name+" by its account alone", w.Namespace, account, nil)
		pod("what looks like "+w.Name, w.Namespace, "impostor", map[string]string{"app": w.Name, accountLabel: account})
	}
	for _, namespace := range namespaces {
		pod("a stranger", namespace, "default", nil)
		for _, account := range slices.Sorted(maps.Keys(accounts)) {
			taken := slices.ContainsFunc(all, func(p *peer) bool {
				return p.namespace == namespace && p.workload != "" && p.labels[accountLabel].Value == account
			})
			if !taken {
				pod("a namesake", namespace, account, nil)
			}
		}
	}
	isDNS := map[string]string{"k8s-app": "kube-dns"}
	pod("kube-dns", "kube-system", "coredns", isDNS).dns = true
	pod("what looks like kube-dns", "elsewhere", "coredns", isDNS)
	pod("spire-oidc", "spire-system", "spire-oidc", nil)
	pod("what looks like spire-oidc", "spire-system", "impostor", map[string]string{accountLabel: "spire-oidc"})
	pod("a namesake of spire-oidc", "elsewhere", "spire-oidc", nil)

	address := func(what string, hosts ...string) {
		p := &peer{name: what, labels: labels.Labels{}, outside: true, hosts: hosts}
		p.labels.AddWorldLabel(netip.MustParseAddr("192.0.2.1"))
		p.id = identity.IdentityScopeLocal + identity.NumericIdentity(len(all))
		all = append(all, p)
	}
	for _, host := range hosts {
		address("the address of "+host, host)
	}
	address("an address of many hosts", hosts...)
	address("an address that nobody looked up")

	reserved := func(id identity.NumericIdentity, outside bool) {
		all = append(all, &peer{name: id.String(), id: id, labels: identity.LookupReservedIdentity(id).Labels, outside: outside})
	}
	reserved(identity.ReservedIdentityWorld, true)
	// Who is outside comes by way of a node, and the API server is on one.
	reserved(identity.ReservedIdentityHost, true)
	reserved(identity.ReservedIdentityRemoteNode, true)
	reserved(identity.ReservedIdentityKubeAPIServer, true)
	reserved(identity.ReservedIdentityHealth, false)
	reserved(identity.ReservedIdentityInit, false)
	reserved(identity.ReservedIdentityUnmanaged, false)
	reserved(identity.ReservedIdentityIngress, false)
	return all
}
