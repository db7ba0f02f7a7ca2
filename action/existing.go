package main

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

const proberPackage = "github.com/org/spire-vault-99-action/zerotrust/probe/prober"

// proberRef is what the prober's image is called in the caller's registry. The tag names the
// source that it is built from.
func proberRef(ctx context.Context, registry, root string) (string, error) {
	tag, err := images.Tag(ctx, filepath.Join(root, "zerotrust", "probe", "prober"))
	if err != nil {
		return "", err
	}
	return registry + "/zerotrust-prober:" + tag, nil
}

// prober is the phase that puts the prober's image where the nodes of an existing cluster can
// pull it. Credentials for the registry are those of docker login.
func prober(ref, root string, cluster *rest.Config) *phase.Phase {
	var digest string
	return &phase.Phase{
		Name: "prober-image", Doc: "The image that probes from inside the pods is in the registry.",
		Apply: func(ctx context.Context) error {
			to, err := name.ParseReference(ref)
			if err != nil {
				return err
			}
			platform := v1.Platform{OS: "linux", Architecture: architecture(ctx, cluster)}
			img, err := images.Build(ctx, images.BuildConfig{Dir: root, Package: proberPackage, Platform: platform})
			if err != nil {
				return err
			}
			hash, err := img.Digest()
			if err != nil {
				return err
			}
			digest = hash.String()
			phase.Progress(ctx, "pushing %s for %s", ref, platform.String())
			if err := remote.Write(to, img, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
				return fmt.Errorf("pushing %s: %w: log in with docker login before this step, or name a registry that takes it", ref, err)
			}
			return nil
		},
		Checks: []phase.Check{{
			Name: "prober in the registry", Doc: "The registry has the very image that was built.",
			Hint: "Nobody else may push to that repository while the step runs.",
			Run: func(ctx context.Context) (phase.Evidence, error) {
				ev := phase.Evidence{Want: digest, Source: "HEAD " + ref}
				from, err := name.ParseReference(ref)
				if err != nil {
					return ev, err
				}
				got, err := remote.Head(from, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain))
				if err != nil {
					return ev, err
				}
				if ev.Got = got.Digest.String(); ev.Got != digest {
					return ev, phase.Want(ev.Want, ev.Got)
				}
				phase.Note(ctx, "image "+ref, digest)
				return ev, nil
			},
		}},
	}
}

// architecture is that of the cluster's nodes, and this machine's where they cannot be listed: the
// rights that a proof needs do not include it.
func architecture(ctx context.Context, cluster *rest.Config) string {
	client, err := kubernetes.NewForConfig(cluster)
	if err != nil {
		return runtime.GOARCH
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil || len(nodes.Items) == 0 {
		return runtime.GOARCH
	}
	return nodes.Items[0].Status.NodeInfo.Architecture
}
