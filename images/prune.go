package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

// PruneResult has one entry for each node, in the order given.
type PruneResult struct{ Nodes []PrunedNode }

// PrunedNode is what became of a node's images. All names are sorted.
type PrunedNode struct {
	Node string
	// Removed are the names that are gone.
	Removed []string
	// InUse are those that were to go and have stayed, because a container, running or
	// ended, is of that image.
	InUse []string
}

// Prune removes from the nodes the images of a repository, and of those below it,
// whose names are not among keep: tags of earlier builds. The repository is a name with
// its registry and at least one part of a path, "example.org/team" or "team/app" (of
// docker.io; "docker.io/library/app" for one without a team); what only begins alike, "example.org/team2", is left alone. What keep names is
// read as Load reads references.
//
// An image that a container on the node uses stays, under each of its names: the
// kubelet would find it missing when it starts that container anew. containerd removes the
// content that no name holds any more by itself, soon after.
//
// A node that fails does not stop the others; the error joins all failures. Of cfg,
// Namespace, Latest and OnEvent count.
func Prune(ctx context.Context, nodes []Node, repository string, keep []string, cfg LoadConfig) (PruneResult, error) {
	if cfg.Namespace == "" {
		cfg.Namespace = "k8s.io"
	}
	scope, err := pruneScope(repository)
	if err != nil {
		return PruneResult{}, fmt.Errorf("prune images: %w", err)
	}
	kept := map[string]bool{}
	for _, ref := range keep {
		full, err := nodeName(ref, cfg.Latest)
		if err != nil {
			return PruneResult{}, fmt.Errorf("prune images: keep: %w", err)
		}
		kept[full] = true
	}
	emit := oneAtATime(cfg.OnEvent)
	result := PruneResult{Nodes: make([]PrunedNode, len(nodes))}
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, node := range nodes {
		all.Go(func() {
			began := time.Now()
			result.Nodes[i], errs[i] = pruneNode(ctx, node, ctr{namespace: cfg.Namespace}, scope, kept)
			if errs[i] != nil {
				errs[i] = fmt.Errorf("prune images of node %s: %w", node.Name(), errs[i])
				return
			}
			p := result.Nodes[i]
			emit(Event{Verb: "pruned", Ref: strings.Join(p.Removed, " "), Node: p.Node, Elapsed: time.Since(began),
				Detail: fmt.Sprintf("%d removed, %d in use", len(p.Removed), len(p.InUse))})
		})
	}
	all.Wait()
	return result, errors.Join(errs...)
}

// pruneScope is the repository in full. An empty one would be all there is.
func pruneScope(repository string) (string, error) {
	advice := `give a registry and a path, as in "example.org/team", or a path of docker.io, as in "team/app"`
	trimmed := strings.TrimSuffix(repository, "/")
	if trimmed == "" {
		return "", errors.New("the repository is empty, which would be every image of the nodes, Kubernetes' own too; " + advice)
	}
	if !strings.Contains(trimmed, "/") {
		return "", fmt.Errorf("repository %q: %s", repository, advice)
	}
	repo, err := name.NewRepository(trimmed)
	if err != nil {
		return "", fmt.Errorf("repository %q: %w; %s", repository, err, advice)
	}
	full := strings.Replace(repo.Name(), name.DefaultRegistry+"/", "docker.io/", 1)
	switch {
	case strings.HasPrefix(trimmed, "docker.io/"):
		full = trimmed // all of a team, not what Docker adds to one word
	case strings.HasPrefix(trimmed, "localhost/"):
		full = strings.TrimPrefix(full, "docker.io/")
	}
	return full, nil
}

// within is true for the repository's images and for those of repositories below it.
func within(image, scope string) bool {
	rest, ok := strings.CutPrefix(image, scope)
	return ok && rest != "" && strings.ContainsAny(rest[:1], ":@/")
}

func pruneNode(ctx context.Context, n Node, c ctr, scope string, kept map[string]bool) (PrunedNode, error) {
	result := PrunedNode{Node: n.Name()}
	targets, err := c.targets(ctx, n)
	if err != nil {
		return result, err
	}
	candidates := unwanted(targets, scope, kept, nil)
	if len(candidates) == 0 {
		return result, nil
	}
	used, err := c.used(ctx, n)
	if err != nil {
		return result, err
	}
	result.Removed = unwanted(targets, scope, kept, used)
	for _, image := range candidates {
		if !slices.Contains(result.Removed, image) {
			result.InUse = append(result.InUse, image)
		}
	}
	if len(result.Removed) == 0 {
		return result, nil
	}
	if err := n.Exec(ctx, nil, nil, c.argv(append([]string{"images", "rm"}, result.Removed...)...)...); err != nil {
		return PrunedNode{Node: n.Name()}, fmt.Errorf("remove %s: %w", strings.Join(result.Removed, " "), err)
	}
	return result, nil
}

// unwanted are the names that go, sorted: of the scope, not kept, and not of an image
// that is used, under that name or another.
func unwanted(targets map[string]string, scope string, kept map[string]bool, used []string) []string {
	usedTargets := map[string]bool{}
	for _, u := range used {
		if digest, ok := targets[u]; ok {
			usedTargets[digest] = true
		}
	}
	var names []string
	for image, digest := range targets {
		if within(image, scope) && !kept[image] && !usedTargets[digest] && !slices.Contains(used, image) {
			names = append(names, image)
		}
	}
	slices.Sort(names)
	return names
}

// targets are the digests that the node's image names mean.
func (c ctr) targets(ctx context.Context, n Node) (map[string]string, error) {
	var out bytes.Buffer
	if err := n.Exec(ctx, nil, &out, c.argv("images", "ls")...); err != nil {
		return nil, fmt.Errorf("list its images (the node must run containerd and have ctr): %w", err)
	}
	return parseImages(out.String()), nil
}

// parseImages reads the table of ctr images ls: REF TYPE DIGEST and more.
func parseImages(table string) map[string]string {
	targets := map[string]string{}
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) >= 3 && f[0] != "REF" {
			targets[f[0]] = f[2]
		}
	}
	return targets
}

// used are the names of the images of the node's containers, ended ones too. The
// kubelet's runtime calls an image by its config's digest, which is a name as well,
// and knows it even where the name that containerd's container had is gone.
func (c ctr) used(ctx context.Context, n Node) ([]string, error) {
	var out bytes.Buffer
	if err := n.Exec(ctx, nil, &out, c.argv("containers", "ls")...); err != nil {
		return nil, fmt.Errorf("list its containers: %w", err)
	}
	used := parseContainers(out.String())
	if c.namespace != "k8s.io" {
		return used, nil // the kubelet's runtime is not there
	}
	out.Reset()
	if err := n.Exec(ctx, nil, &out, "crictl", "ps", "--all", "--output", "json"); err != nil {
		return nil, fmt.Errorf("ask the kubelet's runtime which images are in use: %w; nothing was removed", err)
	}
	byRuntime, err := parseCrictl(out.Bytes())
	return append(used, byRuntime...), err
}

// parseContainers reads the table of ctr containers ls: CONTAINER IMAGE RUNTIME.
// A container without an image has a dash there.
func parseContainers(table string) []string {
	var images []string
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] != "CONTAINER" && f[1] != "-" {
			images = append(images, f[1])
		}
	}
	return images
}

func parseCrictl(raw []byte) ([]string, error) {
	var doc struct {
		Containers []struct {
			Image struct {
				Image              string `json:"image"`
				UserSpecifiedImage string `json:"userSpecifiedImage"`
			} `json:"image"`
			ImageRef string `json:"imageRef"`
			ImageID  string `json:"imageId"`
		} `json:"containers"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("read the containers of crictl ps: %w; nothing was removed", err)
	}
	var images []string
	for _, c := range doc.Containers {
		for _, ref := range []string{c.Image.Image, c.Image.UserSpecifiedImage, c.ImageRef, c.ImageID} {
			if ref == "" {
				continue
			}
			images = append(images, ref)
			// A pod may say it in short.
			if full, err := nodeName(ref, true); err == nil {
				images = append(images, full)
			}
		}
	}
	return images, nil
}
