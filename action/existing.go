package main

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
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
	var built images.NamedImage
	cfg := images.PushConfig{Keychain: authn.DefaultKeychain}
	return &phase.Phase{
		Name: "prober-image", Doc: "The image that probes from inside the pods is in the registry.",
		Apply: func(ctx context.Context) error {
			platform := v1.Platform{OS: "linux", Architecture: architecture(ctx, cluster)}
			img, err := images.Build(ctx, images.BuildConfig{Dir: root, Package: proberPackage, Platform: platform, BuildEnv: []string{"GOWORK=off"}})
			if err != nil {
				return err
			}
			phase.Progress(ctx, "pushing %s for %s", ref, platform.String())
			built = images.NamedImage{Ref: ref, Image: img}
			_, err = images.Push(ctx, []images.NamedImage{built}, cfg)
			return err
		},
		Checks: []phase.Check{{
			Name: "prober in the registry", Doc: "The registry has the very image that was built.",
			Hint: "Nobody else may push to that repository while the step runs.",
			Run: func(ctx context.Context) (phase.Evidence, error) {
				if built.Image == nil {
					return phase.Evidence{}, errors.New("the image was not built")
				}
				digest, err := built.Image.Digest()
				if err != nil {
					return phase.Evidence{}, err
				}
				ev := phase.Evidence{Want: digest.String(), Got: digest.String(), Source: "HEAD " + ref}
				missing, err := images.Unpushed(ctx, []images.NamedImage{built}, cfg)
				if err != nil {
					return ev, err
				}
				if len(missing) > 0 {
					return ev, phase.Want(ev.Want, "another image under that name, or none")
				}
				phase.Note(ctx, "image "+ref, digest.String())
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
