// Package probe tries from inside running pods, whatever their images, whether a port lets
// them connect and how it answers, and whether a name is found.
//
// It adds one ephemeral container to a pod, which shares the pod's network and so its
// identity, addresses and policies, and runs its tries there by exec:
//
//	p := probe.New(client, probe.Config{Image: ref})
//	attempt, err := p.Try(ctx, pod, "db.shop.svc:5432", 4*time.Second)
//
// The image is built from the program in prober/. The container asks for nothing, so
// that Pod Security's level "restricted" admits it, and ends by itself when it is no
// more used. Kubernetes never removes one from its pod: it stays listed there, ended,
// until the pod goes.
//
// The prober has the pod's network and no more of it: SPIRE attests no ephemeral container
// (lookUpContainerInPod in SPIRE's k8s workload attestor), so that whoever may add one gets
// no SVID by it, and neither does the prober. What identity a workload has is seen from its
// peers: a tls:// target shows the server's.
//
// The connection to the cluster needs, in the pod's namespace, get on pods, patch on
// pods/ephemeralcontainers, and get and create on pods/exec. Static pods cannot have
// ephemeral containers, and pods on the host's network are not told from their node.
package probe
