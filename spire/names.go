package spire

import (
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// NodeAlias is one name for all nodes of a cluster: SPIFFE ID /node/<cluster>, for
// every agent that attested with k8s_psat in it. It is the parent of all other
// entries here.
//
// An agent's own ID is never used as a parent. With k8s_psat it ends in the
// UID of its Node object, so it is another one on every node and after every
// re-creation of the cluster: entries below it would reach one node alone and
// be orphans tomorrow. The alias stays, and each new agent falls under it by its
// selector.
func NodeAlias(td spiffeid.TrustDomain, cluster string) Entry {
	return Entry{
		SPIFFEID:  NodeAliasID(td, cluster),
		ParentID:  id(td, "spire", "server"),
		Selectors: []Selector{{"k8s_psat", "cluster:" + cluster}},
	}
}

// NodeAliasID is the SPIFFE ID of NodeAlias: the parent of a cluster's entries.
func NodeAliasID(td spiffeid.TrustDomain, cluster string) spiffeid.ID {
	return id(td, "node", cluster)
}

// CiliumAgentID is the SPIFFE ID of Cilium's agents, which ask the SPIRE agent's
// delegated identity API for the identities of others.
func CiliumAgentID(td spiffeid.TrustDomain) spiffeid.ID { return id(td, "cilium-agent") }

// CiliumOperatorID is the SPIFFE ID of Cilium's operator, which creates the
// /identity/ entries and so must be an admin of the server.
func CiliumOperatorID(td spiffeid.TrustDomain) spiffeid.ID { return id(td, "cilium-operator") }

// CiliumEntries are the identities of Cilium's own agent and operator, both in
// namespace kube-system, as Cilium's mutual authentication expects them. Neither
// is an admin entry: such SVIDs would not be delivered to a delegate, and the
// operator is made admin by the server's admin_ids.
func CiliumEntries(td spiffeid.TrustDomain, cluster string) []Entry {
	entry := func(id spiffeid.ID, sa string) Entry {
		return Entry{SPIFFEID: id, ParentID: NodeAliasID(td, cluster), Selectors: k8s("kube-system", sa)}
	}
	return []Entry{
		entry(CiliumAgentID(td), "cilium"),
		entry(CiliumOperatorID(td), "cilium-operator"),
	}
}

// WorkloadEntry gives the pods of service account sa in namespace ns the SPIFFE ID
// /ns/<ns>/sa/<sa>. More selectors narrow it further, for instance to a label.
func WorkloadEntry(td spiffeid.TrustDomain, cluster, ns, sa string, more ...Selector) Entry {
	return Entry{
		SPIFFEID:  id(td, "ns", ns, "sa", sa),
		ParentID:  NodeAliasID(td, cluster),
		Selectors: append(k8s(ns, sa), more...),
	}
}

func k8s(ns, sa string) []Selector {
	return []Selector{{"k8s", "ns:" + ns}, {"k8s", "sa:" + sa}}
}

// id is the zero ID where a segment is not allowed in one; Validate, and so Sync,
// refuses the entry. Names that Kubernetes accepts are always allowed.
func id(td spiffeid.TrustDomain, segments ...string) spiffeid.ID {
	id, err := spiffeid.FromSegments(td, segments...)
	if err != nil {
		return spiffeid.ID{}
	}
	return id
}
