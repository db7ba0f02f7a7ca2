//go:build e2e

package zerotrust

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/org/spire-vault-99-action/kindx"
	"github.com/org/spire-vault-99-action/kindx/kindtest"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// TestInstall installs the demo in a cluster that is there already: one of kind's that was
// made without a network and given no image, whose nodes pull from a registry. `make existing`
// runs it; it takes four minutes.
func TestInstall(t *testing.T) {
	l := &lab{T: t, cfg: labConfig(t), shots: t.TempDir()}
	l.cfg.Intent.Name = "install-e2e"
	l.green(phase.Options{Only: []string{"images"}})
	node, err := l.stack().nodeImage()
	if err != nil {
		t.Fatal(err)
	}
	bare := kindtest.NewBare(t, kindx.Config{Name: l.cfg.Intent.Name, Image: node.Ref, Kubeconfig: l.cfg.Kubeconfig, StateDir: filepath.Join(l.cfg.Dir, "clusters")})
	l.cfg.Cluster, l.cfg.Registry = bare.REST, kindtest.Registry(t, bare.Nodes...)+"/team"

	client := l.kubeClient(l.stack())
	_, err = l.installed(phase.Options{Only: []string{"cluster"}})
	if err == nil || !strings.Contains(err.Error(), "no default StorageClass") {
		t.Errorf("with nowhere to keep data: %v", err)
	}
	if _, err := client.Clientset().CoreV1().ConfigMaps(claimNamespace).Get(t.Context(), claimName, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a cluster that is refused is kept for the intent: %v", err)
	}

	bare.ProvideStorage(t)
	began := time.Now()
	r, err := l.installed(phase.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Phases {
		t.Logf("%-24s %6.1f s", p.Name, p.Duration.Seconds())
	}
	t.Logf("installed and proven after %s", time.Since(began).Round(100*time.Millisecond))
	for check, want := range map[string]string{
		"edge frontend → backend:8000": "auth=SPIRE",
		"edge intruder → backend:8000": "POLICY_DENIED",
		"edge frontend → vault:8200":   "POLICY_DENIED",
	} {
		if c := l.checkOf(r, check); !strings.Contains(c.Evidence.Got, want) {
			t.Errorf("%s: evidence %q lacks %s", check, c.Evidence.Got, want)
		}
	}
	pods, err := client.Clientset().CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ours := 0
	for _, p := range pods.Items {
		if p.Namespace == "kube-system" && !strings.HasPrefix(p.Name, "cilium") && !strings.HasPrefix(p.Name, "hubble") {
			continue // Kubernetes' own
		}
		for _, c := range append(append([]corev1.Container(nil), p.Spec.InitContainers...), p.Spec.Containers...) {
			ours++
			if !strings.HasPrefix(c.Image, l.cfg.Registry+"/") || !strings.Contains(c.Image, "@sha256:") {
				t.Errorf("pod %s/%s, container %s runs %s, want an image of the registry by digest", p.Namespace, p.Name, c.Name, c.Image)
			}
		}
	}
	if ours < 20 {
		t.Errorf("only %d containers were looked at", ours)
	}

	began = time.Now()
	if _, err := l.installed(phase.Options{}); err != nil {
		t.Errorf("again: %v", err)
	}
	t.Logf("again: %s", time.Since(began).Round(100*time.Millisecond))
	if _, err := l.installed(phase.Options{VerifyOnly: true}); err != nil {
		t.Errorf("verified alone: %v", err)
	}

	other := *l
	other.cfg.Intent.Name = "another"
	if _, err := other.installed(phase.Options{Only: []string{"cluster"}}); err == nil || !strings.Contains(err.Error(), `kept for the intent "install-e2e"`) {
		t.Errorf("another intent in the same cluster: %v", err)
	}
	if err := client.Clientset().CoreV1().ConfigMaps(claimNamespace).Delete(t.Context(), claimName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.installed(phase.Options{Only: []string{"cluster"}}); err == nil || !strings.Contains(err.Error(), "Cilium (pod kube-system/cilium-") {
		t.Errorf("in a cluster with a Cilium of somebody else: %v", err)
	}
}

// installed runs the phases, but for what this machine has no way to see.
func (l *lab) installed(o phase.Options) (phase.Report, error) {
	l.Helper()
	s := l.stack()
	var all []string
	for _, p := range s.Phases() {
		if p.Name != "4D-from-outside" {
			all = append(all, p.Name)
		}
	}
	if o.Only == nil {
		o.Only = all
	}
	r, err := phase.RunWith(l.Context(), s.Phases(), o, func(e phase.Event) {
		if e.Kind == phase.PhaseDone {
			l.Logf("%s: %s %s", e.Phase, e.Status, e.Text)
		}
	})
	return r, errors.Join(err, r.Err())
}
