package deploy

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/org/spire-vault-99-action/spire"
)

var update = flag.Bool("update", false, "write the golden files")

var td = spiffeid.RequireTrustDomainFromString("demo.local")

// custom differs from the default in every way that shows.
var custom = Config{
	Namespace: "spire", TrustDomain: spiffeid.RequireTrustDomainFromString("corp.example"), ClusterName: "c-2",
	ServerImage: "r.example/server:1", AgentImage: "r.example/agent:1", OIDCImage: "r.example/oidc:1", PullPolicy: "Never",
	AdminIDs:            []spiffeid.ID{},
	AuthorizedDelegates: []spiffeid.ID{spiffeid.RequireFromString("spiffe://corp.example/a"), spiffeid.RequireFromString("spiffe://corp.example/b")},
	Storage:             StorageNode,
	CATTL:               24 * time.Hour, X509TTL: 2 * time.Hour, JWTTTL: time.Minute, SyncInterval: 5 * time.Second,
	JWTIssuer: "https://id.corp.example", OIDCDomains: []string{"id.corp.example"},
	KeyReaders: []spiffeid.ID{spiffeid.RequireFromString("spiffe://corp.example/vault")}, TunnelImage: "r.example/tunnel:1",
	VerifyKubelet: true, LogLevel: "DEBUG",
}

func TestGolden(t *testing.T) {
	for name, cfg := range map[string]Config{"default": {}, "custom": custom} {
		r, err := newRenderer(cfg, "")
		if err != nil {
			t.Fatal(err)
		}
		manifests, err := r.all()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+".yaml", manifests)
		golden(t, name+".server.conf", []byte(r.values.ServerConf))
		golden(t, name+".agent.conf", []byte(r.values.AgentConf))
		golden(t, name+".oidc.conf", []byte(r.values.OIDCConf))
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-golden +rendered; go test -update writes it):\n%s", name, diff)
	}
}

// decode reads every document into its Go type; a field that the type lacks is an error.
func decode(t *testing.T, cfg Config) []runtime.Object {
	t.Helper()
	manifests, err := Manifests(cfg)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]func() runtime.Object{
		"Namespace":          func() runtime.Object { return &corev1.Namespace{} },
		"ServiceAccount":     func() runtime.Object { return &corev1.ServiceAccount{} },
		"ConfigMap":          func() runtime.Object { return &corev1.ConfigMap{} },
		"Service":            func() runtime.Object { return &corev1.Service{} },
		"ClusterRole":        func() runtime.Object { return &rbacv1.ClusterRole{} },
		"ClusterRoleBinding": func() runtime.Object { return &rbacv1.ClusterRoleBinding{} },
		"Role":               func() runtime.Object { return &rbacv1.Role{} },
		"RoleBinding":        func() runtime.Object { return &rbacv1.RoleBinding{} },
		"StatefulSet":        func() runtime.Object { return &appsv1.StatefulSet{} },
		"DaemonSet":          func() runtime.Object { return &appsv1.DaemonSet{} },
		"Deployment":         func() runtime.Object { return &appsv1.Deployment{} },
	}
	var objects []runtime.Object
	docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(manifests)))
	for {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal(doc, &meta); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if kinds[meta.Kind] == nil {
			t.Fatalf("kind %q is not expected:\n%s", meta.Kind, doc)
		}
		o := kinds[meta.Kind]()
		if err := yaml.UnmarshalStrict(doc, o); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		objects = append(objects, o)
	}
}

func find[T runtime.Object](t *testing.T, objects []runtime.Object, name string) T {
	t.Helper()
	for _, o := range objects {
		if typed, ok := o.(T); ok && o.(metav1.Object).GetName() == name {
			return typed
		}
	}
	var none T
	t.Fatalf("no %T %s", none, name)
	return none
}

// pods are the pod templates by the name of what makes them.
func pods(objects []runtime.Object) map[string]corev1.PodTemplateSpec {
	pods := map[string]corev1.PodTemplateSpec{}
	for _, o := range objects {
		switch o := o.(type) {
		case *appsv1.StatefulSet:
			pods[o.Name] = o.Spec.Template
		case *appsv1.DaemonSet:
			pods[o.Name] = o.Spec.Template
		case *appsv1.Deployment:
			pods[o.Name] = o.Spec.Template
		}
	}
	return pods
}

func TestManifestsFitTogether(t *testing.T) {
	for name, cfg := range map[string]Config{"default": {}, "custom": custom} {
		t.Run(name, func(t *testing.T) {
			objects := decode(t, cfg)
			namespace := cfg.withDefaults().Namespace
			accounts, configMaps := map[string]bool{}, map[string]bool{}
			for _, o := range objects {
				m := o.(metav1.Object)
				switch o := o.(type) {
				case *corev1.Namespace, *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding:
				default:
					if m.GetNamespace() != namespace {
						t.Errorf("%T %s is in namespace %q, want %q", o, m.GetName(), m.GetNamespace(), namespace)
					}
				}
				switch o := o.(type) {
				case *corev1.ServiceAccount:
					accounts[o.Name] = true
				case *corev1.ConfigMap:
					configMaps[o.Name] = true
				}
			}
			all := pods(objects)
			if len(all) != 4 {
				t.Errorf("%d workloads, want server, agent, provider and canary", len(all))
			}
			for name, pod := range all {
				checkPod(t, name, pod, objects, accounts, configMaps)
			}
		})
	}
}

func checkPod(t *testing.T, name string, pod corev1.PodTemplateSpec, objects []runtime.Object, accounts, configMaps map[string]bool) {
	t.Helper()
	if pod.Labels["app.kubernetes.io/name"] != name {
		t.Errorf("%s: labels %v", name, pod.Labels)
	}
	if !accounts[pod.Spec.ServiceAccountName] {
		t.Errorf("%s: no service account %q", name, pod.Spec.ServiceAccountName)
	}
	volumes := map[string]bool{}
	for _, v := range pod.Spec.Volumes {
		volumes[v.Name] = true
		if v.ConfigMap != nil && !configMaps[v.ConfigMap.Name] {
			t.Errorf("%s: no ConfigMap %q", name, v.ConfigMap.Name)
		}
	}
	for _, o := range objects {
		if set, ok := o.(*appsv1.StatefulSet); ok && set.Name == name {
			for _, claim := range set.Spec.VolumeClaimTemplates {
				volumes[claim.Name] = true
			}
		}
	}
	for _, c := range pod.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				t.Errorf("%s: no volume %q", name, m.Name)
			}
		}
		_, tag, _ := strings.Cut(c.Image[strings.LastIndexByte(c.Image, '/'):], ":")
		if tag == "" || tag == "latest" {
			t.Errorf("%s: image %s needs a tag that stays", name, c.Image)
		}
		sc := c.SecurityContext
		if sc.Privileged != nil || len(sc.Capabilities.Add) > 0 || !slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) ||
			*sc.AllowPrivilegeEscalation || !*sc.ReadOnlyRootFilesystem {
			t.Errorf("%s: more rights than it needs: %+v", name, sc)
		}
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() {
			t.Errorf("%s: no resource requests", name)
		}
	}
}

func TestManifestFacts(t *testing.T) {
	objects := decode(t, Config{})
	all := pods(objects)

	service := find[*corev1.Service](t, objects, "spire-server")
	if service.Spec.ClusterIP == corev1.ClusterIPNone || service.Spec.Ports[0].Port != 8081 {
		t.Errorf("service spire-server: %+v, want a ClusterIP with port 8081", service.Spec)
	}
	if bundle := find[*corev1.ConfigMap](t, objects, "spire-bundle"); bundle.Data != nil || bundle.BinaryData != nil {
		t.Error("ConfigMap spire-bundle has data: applying it again would reset what the server wrote")
	}
	for _, name := range []string{"spire-server", "spire-oidc", "spire-canary"} {
		if sc := all[name].Spec.SecurityContext; sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot || *sc.RunAsUser != 1000 {
			t.Errorf("%s: security context %+v, want uid 1000", name, sc)
		}
	}
	for _, name := range []string{"spire-agent", "spire-canary"} {
		if tol := all[name].Spec.Tolerations; len(tol) != 1 || tol[0].Operator != corev1.TolerationOpExists || tol[0].Key != "" || tol[0].Effect != "" {
			t.Errorf("%s: tolerations %v, want all", name, tol)
		}
	}
	agent := all["spire-agent"].Spec
	if !agent.HostPID || !agent.HostNetwork || agent.DNSPolicy != corev1.DNSClusterFirstWithHostNet {
		t.Errorf("agent: hostPID %v, hostNetwork %v, dnsPolicy %s", agent.HostPID, agent.HostNetwork, agent.DNSPolicy)
	}
	if strings.HasPrefix(AdminSocket, filepath.Dir(WorkloadSocket)+"/") {
		t.Error("the admin socket is below the workload socket's folder, which SPIRE refuses")
	}
	for _, socket := range []string{WorkloadSocket, AdminSocket} {
		if !slices.ContainsFunc(agent.Volumes, func(v corev1.Volume) bool { return v.HostPath != nil && v.HostPath.Path == filepath.Dir(socket) }) {
			t.Errorf("agent: no host folder for %s", socket)
		}
	}
	for _, name := range []string{"spire-oidc", "spire-canary"} { // the admin socket is for nobody else
		for _, v := range all[name].Spec.Volumes {
			if v.HostPath != nil && v.HostPath.Path != filepath.Dir(WorkloadSocket) {
				t.Errorf("%s has host folder %s", name, v.HostPath.Path)
			}
		}
	}

	node := decode(t, Config{Storage: StorageNode})
	server := find[*appsv1.StatefulSet](t, node, "spire-server")
	if storageOf(server) != StorageNode || server.Spec.Template.Spec.NodeSelector == nil {
		t.Errorf("StorageNode: %+v", server.Spec)
	}
	if storageOf(find[*appsv1.StatefulSet](t, objects, "spire-server")) != StorageClaim {
		t.Error("the default is not StorageClaim")
	}
}

func TestNewConfigIsANewPod(t *testing.T) {
	hash := func(cfg Config, name string) string {
		return pods(decode(t, cfg))[name].Annotations["spire/config-hash"]
	}
	a, b := Config{}, Config{X509TTL: 2 * time.Hour}
	if hash(a, "spire-server") == hash(b, "spire-server") {
		t.Error("another X509TTL does not change the server's pod")
	}
	if hash(a, "spire-agent") != hash(b, "spire-agent") {
		t.Error("another X509TTL changes the agents' pods")
	}
}

func TestCheckConfig(t *testing.T) {
	for want, cfg := range map[string]Config{
		`Namespace "A b"`:                {Namespace: "A b"},
		`ClusterName "a/b"`:              {ClusterName: "a/b"},
		"AgentImage":                     {AgentImage: "x\ny: z"},
		`PullPolicy "Sometimes"`:         {PullPolicy: "Sometimes"},
		`Storage "cloud"`:                {Storage: "cloud"},
		`LogLevel "loud"`:                {LogLevel: "loud"},
		"SyncInterval 1ms":               {SyncInterval: time.Millisecond},
		"not of trust domain demo.local": {AdminIDs: []spiffeid.ID{spiffeid.RequireFromString("spiffe://other/x")}},
		`JWTIssuer "me"`:                 {JWTIssuer: "me"},
		"StorageClass":                   {StorageClass: "a b"},
	} {
		if _, err := Manifests(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Manifests: error %v, want one with %s", err, want)
		}
	}
}

func TestEntries(t *testing.T) {
	var got []string
	for _, e := range append(Entries(Config{}), canaryEntry(Config{}.withDefaults(), "NONCE", time.Now())) {
		if err := spire.Validate(e); err != nil {
			t.Errorf("%s: %v", e, err)
		}
		got = append(got, e.String())
	}
	want := []string{
		"spiffe://demo.local/node/precinct-99 (parent spiffe://demo.local/spire/server, selectors k8s_psat:cluster:precinct-99)",
		"spiffe://demo.local/oidc-discovery-provider (parent spiffe://demo.local/node/precinct-99, selectors k8s:ns:spire-system k8s:sa:spire-oidc)",
		"spiffe://demo.local/canary/NONCE (parent spiffe://demo.local/node/precinct-99, selectors k8s:ns:spire-system k8s:sa:spire-canary)",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestStorageFor(t *testing.T) {
	class := func(provisioner, isDefault string) storagev1.StorageClass {
		return storagev1.StorageClass{
			ObjectMeta:  metav1.ObjectMeta{Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": isDefault}},
			Provisioner: provisioner,
		}
	}
	for _, test := range []struct {
		name    string
		classes []storagev1.StorageClass
		want    Storage
	}{
		{"none", nil, StorageNode},
		{"kind's last resort", []storagev1.StorageClass{class("kubernetes.io/host-path", "true")}, StorageNode},
		{"no default", []storagev1.StorageClass{class("ebs.csi.aws.com", "false")}, StorageNode},
		{"a real one", []storagev1.StorageClass{class("rancher.io/local-path", "true")}, StorageClaim},
	} {
		if got := storageFor(test.classes); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestFetched(t *testing.T) {
	out := "Received 2 svids after 1.2ms\n\nSPIFFE ID:\t\tspiffe://demo.local/a\nSVID Valid After:\t2026-01-01\n\nSPIFFE ID:\t\tspiffe://demo.local/b\n"
	if got := fetched(out); !slices.Equal(got, []string{"spiffe://demo.local/a", "spiffe://demo.local/b"}) {
		t.Errorf("fetched = %q", got)
	}
}
