package vault

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/internal/kube"
)

// fieldManager owns what is applied.
const fieldManager = "zerotrust-vault"

// Install applies the manifests and waits until the server's pod runs and has its
// SVID. The server is then as it was, sealed if it is new or just restarted: see
// Unlock. It may be called again at any time.
func Install(ctx context.Context, cluster *rest.Config, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	docs, err := Manifests(cfg)
	if err != nil {
		return err
	}
	client, err := kube.New(cluster)
	if err != nil {
		return err
	}
	if err := client.Apply(ctx, fieldManager, docs); err != nil {
		return fmt.Errorf("vault: install in namespace %s: %w", cfg.Namespace, err)
	}
	if err := waitRunning(ctx, client, cfg); err != nil {
		return fmt.Errorf("vault: install in namespace %s: %w", cfg.Namespace, err)
	}
	return nil
}

// waitRunning waits until the pod of the newest revision has a running server. Ready
// it gets when it is unsealed.
func waitRunning(ctx context.Context, client *kube.Client, cfg Config) error {
	return kube.Wait(ctx, fmt.Sprintf("pod %s/%s to run", cfg.Namespace, cfg.pod()), 250*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		set, err := client.Clientset().AppsV1().StatefulSets(cfg.Namespace).Get(ctx, cfg.Name, metav1.GetOptions{})
		if err != nil {
			return false, "", err
		}
		if set.Status.ObservedGeneration < set.Generation {
			return false, "the StatefulSet's last change has not been seen yet", nil
		}
		pod, err := client.Clientset().CoreV1().Pods(cfg.Namespace).Get(ctx, cfg.pod(), metav1.GetOptions{})
		if err != nil {
			return false, "", err
		}
		if pod.DeletionTimestamp != nil || pod.Labels["controller-revision-hash"] != set.Status.UpdateRevision {
			return false, "an older pod is about to go", nil
		}
		return running(pod, "vault"), kube.Trouble(*pod), nil
	})
}

func running(pod *corev1.Pod, container string) bool {
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == container {
			return s.State.Running != nil
		}
	}
	return false
}
