package zerotrust

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/images/fromsource"
	"github.com/org/spire-vault-99-action/kindx"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// firstKubernetesMinor is the first minor whose kubelets know a right for the list of their
// pods alone, by which SPIRE's agents attest (spire/deploy).
const (
	firstKubernetesMinor = 33
	whyKubernetes        = "SPIRE's agents have the right to list a node's pods and no other, which older kubelets do not know"
)

// CheckKubernetes is nil for a version that Config.Kubernetes can have: any release from
// 1.33 on, whole ("1.36.4"), with or without a leading "v". The error says what is wrong
// with another one. It is pure: whether there is a node image of it is not asked.
func CheckKubernetes(version string) error {
	v, err := semver.NewVersion(version)
	switch {
	case err != nil || v.Metadata() != "" || strings.TrimPrefix(version, "v") != v.String():
		return fmt.Errorf("kubernetes version %q: want a whole version such as %s", version, tagOf(NodeImage))
	case v.Major() != 1 || v.Minor() < firstKubernetesMinor:
		return fmt.Errorf("kubernetes version %s: want 1.%d or later: %s", version, firstKubernetesMinor, whyKubernetes)
	}
	return nil
}

// checkVersions finds what cannot be before anything starts: a version that is none or not
// supported, and, with images from source alone, one that no recipe builds.
func (c Config) checkVersions() error {
	var all []error
	if c.Kubernetes != "" {
		all = append(all, CheckKubernetes(c.Kubernetes))
	}
	if c.Cilium != "" {
		err := cilium.CheckVersion(c.Cilium)
		i := slices.IndexFunc(c.Intent.Edges, func(e Edge) bool { return e.host() != "" })
		if err == nil && i >= 0 && !cilium.MatchesDeepNames(c.Cilium) {
			err = fmt.Errorf("cilium version %s: the edge from %s to %s needs 1.19 or later: before that its DNS proxy does not take the names of the cluster's Services for one pattern", c.Cilium, c.Intent.Edges[i].From, c.Intent.Edges[i].To)
		}
		all = append(all, err)
	}
	if err := errors.Join(all...); err != nil {
		return err
	}
	if c.Images != images.SourceFromSource || c.Cluster != nil && c.Registry == "" {
		return nil
	}
	refs := c.ThirdPartyImages()
	if node, _ := c.nodeRefs(); c.Cluster == nil {
		refs = append(refs, node)
	}
	for _, ref := range refs {
		all = append(all, noRecipe(ref))
	}
	return errors.Join(all...)
}

// noRecipe says that an image cannot be built from source, and which of its kind can; it is
// nil for one that can.
func noRecipe(ref string) error {
	refs, err := fromsource.Refs()
	if err != nil || slices.Contains(refs, ref) {
		return err
	}
	repository, _, _ := strings.Cut(ref, ":")
	var known []string
	for _, r := range refs {
		if strings.HasPrefix(r, repository+":") {
			known = append(known, r)
		}
	}
	if known == nil {
		known = refs
	}
	return fmt.Errorf("%w %s: from source there is %s; take that, or images from a registry", fromsource.ErrNoRecipe, ref, strings.Join(known, ", "))
}

// nodeRefs are the node image as it is built from source, and as a registry has it: kind
// pins the image of its own version by digest.
func (c Config) nodeRefs() (built, pulled string) {
	if c.Kubernetes == "" {
		return NodeImage, kindx.DefaultImage
	}
	ref := withTag(NodeImage, c.Kubernetes)
	if strings.HasPrefix(kindx.DefaultImage, ref+"@") {
		return ref, kindx.DefaultImage
	}
	return ref, ref
}

// ciliumVersion is the version of Cilium, without "v".
func (c Config) ciliumVersion() string {
	if c.Cilium == "" {
		return tagOf(AgentImage)
	}
	return strings.TrimPrefix(c.Cilium, "v")
}

// ciliumImages are Cilium's images of that version.
func (c Config) ciliumImages() cilium.Images {
	v := c.ciliumVersion()
	return cilium.Images{Agent: withTag(AgentImage, v), Operator: withTag(OperatorImage, v), Relay: withTag(RelayImage, v)}
}

// withTag is the reference of another version, which may have a leading "v".
func withTag(ref, version string) string {
	repository, _, _ := strings.Cut(ref, ":v")
	return repository + ":v" + strings.TrimPrefix(version, "v")
}

// tagOf is the version that a reference names, without "v".
func tagOf(ref string) string {
	_, tag, _ := strings.Cut(ref, ":v")
	tag, _, _ = strings.Cut(tag, "@")
	return tag
}

// checkKubernetes compares what the kubelets say of themselves with the node image.
func (s *Stack) checkKubernetes(ctx context.Context) (phase.Evidence, error) {
	ev := phase.Evidence{Source: "API server: nodes"}
	node, err := s.nodeImage()
	if err != nil {
		return ev, err
	}
	ev.Want = "v" + tagOf(node.Ref) + " on each node"
	nodes, err := s.members(ctx)
	if err != nil {
		return ev, err
	}
	var seen []string
	for _, n := range nodes {
		v := n.Status.NodeInfo.KubeletVersion
		ev.Details = append(ev.Details, n.Name+" "+v)
		if !slices.Contains(seen, v) {
			seen = append(seen, v)
		}
	}
	slices.Sort(seen)
	ev.Got = strings.Join(seen, ", ") + " on each node"
	if len(nodes) == 0 {
		ev.Got = "no nodes"
	}
	if ev.Got == ev.Want {
		phase.Note(ctx, "kubernetes", "v"+tagOf(node.Ref))
	}
	return ev, same(ev)
}
