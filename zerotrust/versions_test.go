package zerotrust

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/images/fromsource"
	"github.com/org/spire-vault-99-action/kindx"
	"github.com/org/spire-vault-99-action/zerotrust/vault"
)

func TestCheckKubernetes(t *testing.T) {
	for version, want := range map[string]string{ // "" is fine
		"1.37.2": "", "v1.36.4": "", "1.33.0": "", "1.38.0-beta.0": "",
		"": "whole version", "1.36": "whole version", "latest": "whole version", "v": "whole version", "1.36.4 ": "whole version", "1.036.4": "whole version",
		"vv1.36.4": "whole version", "1.36.4+k3s1": "whole version", "1.36.x": "whole version", "1.36.4@sha256:00": "whole version", "1.36.4\n::error::x": "whole version",
		"1.32.15": "node's pods", "2.0.0": "1.33 or later", "0.37.2": "1.33 or later",
	} {
		err := CheckKubernetes(version)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", version, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q is said on several lines: %v", version, err)
		}
	}
}

// What cannot be is refused by New, before anything starts, all at once.
func TestVersionsAreCheckedFirst(t *testing.T) {
	outwards := Precinct99()
	outwards.Edges = append(slices.Clone(outwards.Edges), Edge{From: outwards.Workloads[0].Name, To: "dns:api.example.org", Port: TCP(443)})
	for name, tt := range map[string]struct {
		cfg  Config
		want []string // none: it is fine
	}{
		"today's, from source":          {Config{Images: images.SourceFromSource}, nil},
		"the same, told":                {Config{Kubernetes: "1.37.2", Cilium: "v1.20.2", Images: images.SourceFromSource}, nil},
		"others, from a registry":       {Config{Kubernetes: "1.36.4", Cilium: "1.19.7", Images: images.SourceRegistry}, nil},
		"others, from wherever":         {Config{Kubernetes: "1.36.4", Cilium: "1.19.7"}, nil},
		"others, from source":           {Config{Kubernetes: "1.36.4", Cilium: "1.19.7", Images: images.SourceFromSource}, []string{"kindest/node:v1.36.4", "there is kindest/node:v1.37.2;", "cilium:v1.19.7", "there is quay.io/cilium/cilium:v1.20.2;"}},
		"an image without a recipe":     {Config{Vault: vault.OpenBao, Images: images.SourceFromSource}, []string{"openbao", "images from a registry"}},
		"none":                          {Config{Kubernetes: "new", Cilium: "newer"}, []string{`"new"`, `"newer"`}},
		"too old":                       {Config{Kubernetes: "1.29.1", Cilium: "1.14.0"}, []string{"1.29.1", "1.14.0"}},
		"too new":                       {Config{Cilium: "1.21.0"}, []string{"removed after 1.20"}},
		"outwards with a Cilium of old": {Config{Intent: outwards, Cilium: "1.18.6"}, []string{"1.19 or later", "dns:api.example.org"}},
		"outwards":                      {Config{Intent: outwards, Cilium: "1.19.0"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.cfg.Intent.Name == "" {
				tt.cfg.Intent = Precinct99()
			}
			tt.cfg.Dir, tt.cfg.SourceDir = t.TempDir(), "."
			s, err := New(t.Context(), tt.cfg)
			if err == nil {
				_ = s.Close()
			}
			if (err == nil) != (tt.want == nil) {
				t.Fatalf("got %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not say %q", err, want)
				}
			}
		})
	}
}

func TestVersionsDecideImages(t *testing.T) {
	pinned := withTag(kindx.DefaultImage, tagOf(kindx.DefaultImage)) // less the digest
	for name, tt := range map[string]struct {
		cfg           Config
		built, pulled string
	}{
		"today's":      {Config{}, NodeImage, kindx.DefaultImage},
		"told":         {Config{Kubernetes: "v1.37.2"}, NodeImage, NodeImage},
		"another":      {Config{Kubernetes: "1.36.4"}, "kindest/node:v1.36.4", "kindest/node:v1.36.4"},
		"kind's own":   {Config{Kubernetes: tagOf(kindx.DefaultImage)}, pinned, kindx.DefaultImage},
		"its neighbor": {Config{Kubernetes: tagOf(kindx.DefaultImage) + "1"}, pinned + "1", pinned + "1"},
	} {
		if built, pulled := tt.cfg.nodeRefs(); built != tt.built || pulled != tt.pulled {
			t.Errorf("%s: built as %s, pulled as %s", name, built, pulled)
		}
	}
	if pinned == kindx.DefaultImage {
		t.Errorf("kind does not pin %s", kindx.DefaultImage)
	}
	cfg := Config{Intent: Precinct99()}
	if cfg.ciliumVersion() != cilium.DefaultVersion || !slices.Contains(cfg.ThirdPartyImages(), AgentImage) {
		t.Errorf("Cilium is %s by itself, with %q", cfg.ciliumVersion(), cfg.ThirdPartyImages())
	}
	cfg.Cilium = "v1.19.7"
	s := &Stack{cfg: cfg}
	got, err := s.ciliumConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := cilium.Images{Agent: "quay.io/cilium/cilium:v1.19.7", Operator: "quay.io/cilium/operator-generic:v1.19.7", Relay: "quay.io/cilium/hubble-relay:v1.19.7"}
	if got.Version != "1.19.7" || got.Images != want {
		t.Errorf("the release is of %s with %+v", got.Version, got.Images)
	}
	for _, ref := range []string{want.Agent, want.Operator, want.Relay} {
		if !slices.Contains(cfg.ThirdPartyImages(), ref) {
			t.Errorf("%s is not among the images", ref)
		}
	}
	if slices.Contains(cfg.ThirdPartyImages(), AgentImage) {
		t.Error("the other version's are among them too")
	}
}

// Whatever was pulled in another version before, a run takes the one that it asks for.
func TestNodeImageIsOfTheVersion(t *testing.T) {
	host, put := mirrored(t)
	put("docker.io/kindest/node:v1.36.4")
	put("docker.io/kindest/node:v1.37.2")
	dir := t.TempDir()
	stack := func(kubernetes string, source images.Source) *Stack {
		s, err := New(t.Context(), Config{
			Intent: Precinct99(), Kubernetes: kubernetes, Dir: dir, SourceDir: ".", Images: source,
			Mirrors: map[string][]string{"docker.io": {host}, "index.docker.io": {host}},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	for _, source := range []images.Source{images.SourceRegistry, images.SourceAuto} {
		for _, version := range []string{"1.36.4", "v1.37.2"} {
			s := stack(version, source)
			built, pulled := s.cfg.nodeRefs()
			if found, err := s.find(t.Context(), built, pulled); err != nil || !found {
				t.Fatalf("%s from %s: %t, %v", version, source, found, err)
			}
			cfg, err := s.clusterConfig(t.Context())
			if err != nil || cfg.Image != "kindest/node:v"+strings.TrimPrefix(version, "v") {
				t.Errorf("%s from %s: the nodes' image is %q, %v", version, source, cfg.Image, err)
			}
		}
		if node, err := stack("", source).nodeImage(); err == nil {
			t.Errorf("kind's own image was never pulled, and the one from %s is %s", source, node.Ref)
		}
	}
	// With auto a version without a recipe is an error only where no registry has it.
	s := stack("1.35.0", images.SourceAuto)
	found, err := s.find(t.Context(), "kindest/node:v1.35.0", "kindest/node:v1.35.0")
	if found || !errors.Is(err, fromsource.ErrNoRecipe) || !strings.Contains(err.Error(), "there is kindest/node:v1.37.2") || !strings.Contains(err.Error(), strings.TrimPrefix(host, "http://")) {
		t.Errorf("a version that nobody has: %t, %v", found, err)
	}
}
