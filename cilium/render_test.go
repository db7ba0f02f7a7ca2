package cilium

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// rendered is a manifest taken apart: documents by "Kind/name".
type rendered map[string][]byte

func render(t *testing.T, c Config) rendered {
	t.Helper()
	manifest, err := Render(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	out := rendered{}
	for doc := range bytes.SplitSeq(manifest, []byte("\n---")) {
		var meta struct {
			metav1.TypeMeta   `json:",inline"`
			metav1.ObjectMeta `json:"metadata"`
		}
		if err := yaml.Unmarshal(doc, &meta); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if meta.Kind != "" {
			out[meta.Kind+"/"+meta.Name] = doc
		}
	}
	return out
}

func object[T any](t *testing.T, r rendered, key string) T {
	t.Helper()
	var o T
	doc, ok := r[key]
	if !ok {
		t.Fatalf("no %s was rendered", key)
	}
	if err := yaml.Unmarshal(doc, &o); err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return o
}

// checkMounted fails unless the container has the host's dir at the same place.
func checkMounted(t *testing.T, pod corev1.PodSpec, container, dir string) {
	t.Helper()
	c := slices.IndexFunc(pod.Containers, func(c corev1.Container) bool { return c.Name == container })
	if c < 0 {
		t.Fatalf("no container %s", container)
	}
	for _, m := range pod.Containers[c].VolumeMounts {
		if m.MountPath != dir {
			continue
		}
		for _, v := range pod.Volumes {
			if v.Name == m.Name && v.HostPath != nil && v.HostPath.Path == dir {
				return
			}
		}
	}
	t.Errorf("container %s does not have the host's %s mounted", container, dir)
}

func TestRender(t *testing.T) {
	c := Config{
		ClusterName: "precinct-99", APIServerHost: "precinct-99-control-plane", TrustDomain: demo,
		Images:     Images{Agent: "quay.io/cilium/cilium:v9", Operator: "quay.io/cilium/operator-generic:v9", Relay: "quay.io/cilium/hubble-relay:v9"},
		PullPolicy: "Never", DisableEnvoy: true, DirectRoutes: "10.244.0.0/16",
	}
	// Every minor that CheckVersion takes, so that none is promised whose chart was not tried.
	for _, version := range []string{"1.20.2", "1.19.7", "1.18.6", "1.17.14", "1.16.19", "1.15.19"} {
		if err := CheckVersion(version); err != nil {
			t.Error(err)
		}
		t.Run(version, func(t *testing.T) {
			c := c
			if c.Chart.Module = "v" + version; version == DefaultVersion {
				c.Chart.Module = "" // what the zero Chart stands for
			}
			r := render(t, c)

			agent := object[appsv1.DaemonSet](t, r, "DaemonSet/cilium")
			operator := object[appsv1.Deployment](t, r, "Deployment/cilium-operator")
			relay := object[appsv1.Deployment](t, r, "Deployment/hubble-relay")
			checkMounted(t, agent.Spec.Template.Spec, "cilium-agent", path.Dir("/run/spire/admin-sockets/admin.sock"))
			checkMounted(t, operator.Spec.Template.Spec, "cilium-operator", path.Dir("/run/spire/sockets/agent.sock"))
			if n := *operator.Spec.Replicas; n != 1 {
				t.Errorf("%d operators", n)
			}
			for image, pod := range map[string]corev1.PodSpec{c.Images.Agent: agent.Spec.Template.Spec, c.Images.Operator: operator.Spec.Template.Spec, c.Images.Relay: relay.Spec.Template.Spec} {
				for _, ctr := range slices.Concat(pod.InitContainers, pod.Containers) {
					if ctr.Image != image || ctr.ImagePullPolicy != corev1.PullNever {
						t.Errorf("container %s has image %s (%s), want %s (Never)", ctr.Name, ctr.Image, ctr.ImagePullPolicy, image)
					}
				}
			}

			// The chart's allow 10 s + 20 times 3 s.
			if p := relay.Spec.Template.Spec.Containers[0].StartupProbe; p == nil || p.GRPC == nil || p.InitialDelaySeconds != 0 || p.PeriodSeconds != 1 || p.FailureThreshold != 70 {
				t.Errorf("Relay's startup probe is %v, want gRPC at once, every second, 70 times", p)
			}

			conf := object[corev1.ConfigMap](t, r, "ConfigMap/cilium-config").Data
			for key, want := range map[string]string{
				"mesh-auth-enabled":              "true",
				"mesh-auth-mutual-enabled":       "true",
				"mesh-auth-spiffe-trust-domain":  "demo.local",
				"mesh-auth-spire-admin-socket":   "/run/spire/admin-sockets/admin.sock",
				"mesh-auth-spire-agent-socket":   "/run/spire/sockets/agent.sock",
				"mesh-auth-spire-server-address": "spire-server.spire-system.svc:8081",
				"kube-proxy-replacement":         "true",
				"ipam":                           "kubernetes",
				"cluster-name":                   "precinct-99",
				"enable-hubble":                  "true",
				"enable-l7-proxy":                "false",
				"routing-mode":                   "native",
				"auto-direct-node-routes":        "true",
				"ipv4-native-routing-cidr":       "10.244.0.0/16",
			} {
				if got := conf[key]; got != want {
					t.Errorf("cilium-config: %s is %q, want %q", key, got, want)
				}
			}
			for key := range r {
				if strings.Contains(strings.ToLower(key), "spire") || strings.Contains(key, "envoy") {
					t.Errorf("%s was rendered", key)
				}
			}
			for _, env := range agent.Spec.Template.Spec.Containers[0].Env {
				if env.Name == "KUBERNETES_SERVICE_HOST" && env.Value != c.APIServerHost {
					t.Errorf("the agent's API server is %s", env.Value)
				}
			}
		})
	}
}

// TestRenderZero holds that the zero Config is one the chart accepts.
func TestRenderZero(t *testing.T) {
	r := render(t, Config{})
	conf := object[corev1.ConfigMap](t, r, "ConfigMap/cilium-config").Data
	if got := fmt.Sprint(conf["kube-proxy-replacement"], " ", conf["mesh-auth-enabled"]); got != "false false" {
		t.Errorf("kube-proxy replacement and authentication are %s, want both off", got)
	}
	agent := object[appsv1.DaemonSet](t, r, "DaemonSet/cilium")
	if image := agent.Spec.Template.Spec.Containers[0].Image; !strings.HasPrefix(image, "quay.io/cilium/cilium:v"+DefaultVersion) {
		t.Errorf("the agent's image is %s, want the chart's own", image)
	}
}

// TestRenderRefusesBadValues holds that the chart's own schema is asked.
func TestRenderRefusesBadValues(t *testing.T) {
	_, err := Render(t.Context(), Config{Values: map[string]any{"ipam": map[string]any{"mode": 7}}})
	if err == nil || !strings.Contains(err.Error(), "ipam") {
		t.Errorf("got %v, want an error about ipam", err)
	}
}
