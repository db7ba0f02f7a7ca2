package deploy

import (
	"context"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/internal/kube"
)

// fieldManager owns what is applied.
const fieldManager = "zerotrust-spire"

// Installation is what Install left behind.
type Installation struct {
	// Storage is what StorageAuto came to.
	Storage Storage
	// Took is the time from the call to its return.
	Took time.Duration
}

// Install applies SPIRE's manifests and waits until the server is ready and every
// node has a ready agent, which means one that has attested. The OIDC discovery
// provider gets ready later, when its entry exists: see Entries and WaitOIDC.
//
// It may be called again at any time, with another Config too: what differs is
// changed, and pods whose config changed are replaced. Only Storage cannot be changed.
// The cluster needs a working pod network, or the wait goes on until ctx ends.
//
// Agents are given the cluster IP of the server's Service: they attest before there is
// cluster DNS, and go on without it. Who the server is they see from its SVID, not
// from its address. Should the Service be deleted, Install makes it anew and
// replaces the agents.
func Install(ctx context.Context, config *rest.Config, cfg Config) (Installation, error) {
	start := time.Now()
	cfg = cfg.withDefaults()
	client, err := kube.New(config)
	if err != nil {
		return Installation{}, fmt.Errorf("install SPIRE: %w", err)
	}
	if err := cfg.check(); err != nil {
		return Installation{}, err
	}
	if cfg.Storage, err = chooseStorage(ctx, client.Clientset(), cfg); err != nil {
		return Installation{}, fmt.Errorf("install SPIRE: %w", err)
	}
	done := func(err error) (Installation, error) {
		if err != nil {
			err = fmt.Errorf("install SPIRE in namespace %s: %w", cfg.Namespace, err)
		}
		return Installation{cfg.Storage, time.Since(start)}, err
	}
	r, err := newRenderer(cfg, "")
	if err != nil {
		return done(err)
	}
	apply := func(r *renderer, names ...string) error {
		for _, name := range names {
			doc, err := r.render(name)
			if err != nil {
				return err
			}
			if err := client.Apply(ctx, fieldManager, doc); err != nil {
				return err
			}
		}
		return nil
	}

	cfg.event("SPIRE server: applying (storage: %s)", cfg.Storage)
	// All but the agents: what waits for an agent's socket has its pods by then.
	if err := apply(r, serverManifest, oidcManifest, canaryManifest); err != nil {
		return done(err)
	}
	service, err := client.Clientset().CoreV1().Services(cfg.Namespace).Get(ctx, "spire-server", metav1.GetOptions{})
	if err != nil {
		return done(fmt.Errorf("read the cluster IP of service spire-server: %w", err))
	}
	if r, err = newRenderer(cfg, service.Spec.ClusterIP); err != nil {
		return done(err)
	}
	if !cfg.NoWait {
		// An agent whose trust bundle is not there yet backs off for longer than
		// the server takes to write it.
		if err := client.WaitRollout(ctx, "StatefulSet", cfg.Namespace, "spire-server"); err != nil {
			return done(err)
		}
		if err := waitBundle(ctx, client, cfg); err != nil {
			return done(err)
		}
		cfg.event("SPIRE server: ready after %s", time.Since(start).Round(100*time.Millisecond))
	}
	if err := apply(r, agentManifest); err != nil {
		return done(err)
	}
	if !cfg.NoWait {
		if err := client.WaitRollout(ctx, "DaemonSet", cfg.Namespace, "spire-agent"); err != nil {
			return done(err)
		}
		cfg.event("SPIRE agents: ready after %s", time.Since(start).Round(100*time.Millisecond))
	}
	return done(nil)
}

// Uninstall deletes all that Install made, its namespace and whatever else is in it,
// and waits until it is gone. Folders of nodes stay: /run/spire, and with StorageNode
// /var/lib/spire-server, with which a new installation of the same trust domain goes on.
// What is not there is fine.
func Uninstall(ctx context.Context, config *rest.Config, cfg Config) error {
	cfg = cfg.withDefaults()
	client, err := kube.New(config)
	if err != nil {
		return fmt.Errorf("uninstall SPIRE: %w", err)
	}
	manifests, err := Manifests(cfg)
	if err != nil {
		return err
	}
	if err := client.Delete(ctx, manifests); err != nil {
		return fmt.Errorf("uninstall SPIRE from namespace %s: %w", cfg.Namespace, err)
	}
	return nil
}

// WaitOIDC waits until the OIDC discovery provider is ready, which it gets some seconds
// after its entry (see Entries) exists.
func WaitOIDC(ctx context.Context, config *rest.Config, cfg Config) error {
	client, err := kube.New(config)
	if err != nil {
		return fmt.Errorf("wait for the OIDC discovery provider: %w", err)
	}
	return client.WaitRollout(ctx, "Deployment", cfg.withDefaults().Namespace, "spire-oidc")
}

// chooseStorage settles StorageAuto, and finds out early what the API server would
// refuse with a puzzling message: a StatefulSet's storage cannot be changed.
func chooseStorage(ctx context.Context, client kubernetes.Interface, cfg Config) (Storage, error) {
	installed, err := client.AppsV1().StatefulSets(cfg.Namespace).Get(ctx, "spire-server", metav1.GetOptions{})
	if err == nil {
		has := storageOf(installed)
		if cfg.Storage != StorageAuto && cfg.Storage != has {
			return has, fmt.Errorf("the server in namespace %s has storage %q, and the config says %q: Uninstall it first, which loses its data, or keep %q", cfg.Namespace, has, cfg.Storage, has)
		}
		return has, nil
	}
	if !apierrors.IsNotFound(err) {
		return "", fmt.Errorf("look for an installed server in namespace %s: %w", cfg.Namespace, err)
	}
	if cfg.Storage != StorageAuto {
		return cfg.Storage, nil
	}
	if cfg.StorageClass != "" {
		return StorageClaim, nil
	}
	classes, err := client.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", fmt.Errorf("list storage classes: %w", err)
	}
	return storageFor(classes.Items), nil
}

func storageOf(s *appsv1.StatefulSet) Storage {
	if len(s.Spec.VolumeClaimTemplates) > 0 {
		return StorageClaim
	}
	return StorageNode
}

func storageFor(classes []storagev1.StorageClass) Storage {
	for _, class := range classes {
		if class.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" && class.Provisioner != "kubernetes.io/host-path" {
			return StorageClaim
		}
	}
	return StorageNode
}

// waitBundle waits until the server has written its trust bundle where agents read it.
func waitBundle(ctx context.Context, client *kube.Client, cfg Config) error {
	what := fmt.Sprintf("the trust bundle in ConfigMap %s/spire-bundle", cfg.Namespace)
	return kube.Wait(ctx, what, 250*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		bundle, err := client.Clientset().CoreV1().ConfigMaps(cfg.Namespace).Get(ctx, "spire-bundle", metav1.GetOptions{})
		if err != nil {
			return false, "", err
		}
		if !strings.Contains(bundle.Data["bundle.crt"], "BEGIN CERTIFICATE") {
			return false, "no certificate in key bundle.crt", nil
		}
		return true, "", nil
	})
}
