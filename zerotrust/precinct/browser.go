// Package precinct proves the demo's site from its users' side: a journey through all
// of its pages in a real browser, and load on its API while things behind it change.
// Nothing in the engine depends on it.
package precinct

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Browser says which site to look at, and with what.
type Browser struct {
	// URL of the site: "http://127.0.0.1:3000". Required.
	URL string
	// ScreenshotDir gets a PNG of each page, in light, in dark and as on a phone; it is
	// made if need be. "": no screenshots.
	ScreenshotDir string
	// Exec is the path of Chromium or Chrome. "": the first of chromium,
	// chromium-browser, google-chrome and google-chrome-stable that is in PATH.
	Exec string
}

// ErrNoBrowser says that there is nothing to look with.
var ErrNoBrowser = errors.New("there is no Chromium here: install it (apt-get install chromium), or say where it is")

// find is the path of the browser.
func (b Browser) find() (string, error) {
	names := []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}
	if b.Exec != "" {
		names = []string{b.Exec}
	}
	var last error
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err == nil {
			return path, nil
		}
		last = err
	}
	return "", fmt.Errorf("%w: %w", ErrNoBrowser, last)
}

// tab is one page of a fresh browser, which is gone with everything that it kept when
// the tab is closed.
type tab struct {
	ctx     context.Context
	version string
	close   func()
}

// open starts the browser and tells the listener all that happens in the tab.
func (b Browser) open(ctx context.Context, listen func(event any)) (*tab, error) {
	path, err := b.find()
	if err != nil {
		return nil, err
	}
	// What it leaves behind goes with it: it is killed, and does not tidy up.
	dir, err := os.MkdirTemp("", "zerotrust-browser-")
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	ctx, cancelAllocator := chromedp.NewExecAllocator(ctx,
		chromedp.ExecPath(path),
		chromedp.Headless,
		// The pages are our own, and root may not have a sandbox.
		chromedp.NoSandbox,
		chromedp.DisableGPU,
		chromedp.NoFirstRun,
		chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-default-apps", true),
		chromedp.Flag("disable-extensions", true),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true), // /dev/shm is small in containers
		chromedp.Flag("enable-automation", true),
		chromedp.Flag("force-color-profile", "srgb"),
		chromedp.Flag("hide-scrollbars", true),
		chromedp.Flag("password-store", "basic"),
		chromedp.Env("TMPDIR="+dir),
	)
	ctx, cancelTab := chromedp.NewContext(ctx)
	t := &tab{ctx: ctx, close: func() { cancelTab(); cancelAllocator(); _ = os.RemoveAll(dir) }}
	if err := chromedp.Listen(ctx, listen); err != nil {
		t.close()
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	version, err := chromedp.CallBrowser(ctx, browser.GetVersion, struct{}{})
	if err != nil {
		t.close()
		return nil, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	t.version = version.Product
	return t, nil
}

// patience is how long a page may take, and whatever should happen on it.
const patience = 30 * time.Second

// missing says that something did not come about on a page, and what was there instead.
type missing struct{ what, saw string }

func (m *missing) Error() string { return m.what + "; " + m.saw }

// saw describes the page for whoever waits in vain.
func (t *tab) saw() string {
	ctx, cancel := context.WithTimeout(t.ctx, 5*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`location.href + " shows: " + document.body.innerText.trim().slice(0, 300)`))
	if err != nil {
		return "the page could not be looked at: " + err.Error()
	}
	return text
}

// within gives steps limited time; running out of it is a missing.
func (t *tab) within(limit time.Duration, what string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(t.ctx, limit)
	defer cancel()
	err := do(ctx)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && t.ctx.Err() == nil {
		return &missing{what: fmt.Sprintf("waited %s for %s", limit, what), saw: t.saw()}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// load goes through a navigation, however it is set off, and tells the status of the
// page that it ended on.
func (t *tab) load(what string, steps ...chromedp.Action[chromedp.Void]) (status int, err error) {
	err = t.within(patience, what, func(ctx context.Context) error {
		resp, err := chromedp.RunResponse(ctx, steps...)
		if err == nil && resp == nil {
			err = errors.New("no page was loaded")
		}
		if err == nil {
			status = int(resp.Status)
		}
		return err
	})
	return status, err
}

// fill types into the form's fields as a user does, and submits it by its button.
func (t *tab) fill(form string, fields ...[2]string) (status int, err error) {
	var steps []chromedp.Action[chromedp.Void]
	for _, f := range fields {
		at := chromedp.CSS(form + " [name=" + f[0] + "]")
		steps = append(steps, chromedp.WaitVisible(at), chromedp.Clear(at), chromedp.SendKeys(at, f[1]))
	}
	steps = append(steps, chromedp.Click(chromedp.CSS(form+" button[type=submit]"), chromedp.NodeVisible))
	return t.load("the answer to the form "+form, steps...)
}

// read evaluates an expression of JavaScript.
func read[T any](t *tab, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		return v, fmt.Errorf("evaluate in the page: %w", err)
	}
	return v, nil
}

// until waits for an expression to be true.
func (t *tab) until(limit time.Duration, what, expression string) error {
	return t.within(limit, what, func(ctx context.Context) error {
		for {
			ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool](expression))
			if err != nil || ok {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
}

// cookies are those that would travel to the site.
func (t *tab) cookies(url string) ([]*network.Cookie, error) {
	got, err := chromedp.Call(t.ctx, network.GetCookies, network.GetCookiesParams{URLs: []string{url}})
	return got.Cookies, err
}

// nameless are the controls of the page that a screen reader has no name for.
func (t *tab) nameless() ([]string, error) {
	tree, err := chromedp.Call(t.ctx, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	if err != nil {
		return nil, err
	}
	controls := map[string]bool{`"textbox"`: true, `"searchbox"`: true, `"button"`: true, `"link"`: true, `"checkbox"`: true,
		`"radio"`: true, `"combobox"`: true, `"listbox"`: true, `"slider"`: true, `"switch"`: true, `"progressbar"`: true}
	var found []string
	for _, n := range tree.Nodes {
		if n.Ignored || n.Role == nil || !controls[string(n.Role.Value)] {
			continue
		}
		if n.Name == nil || string(n.Name.Value) == `""` || len(n.Name.Value) == 0 {
			found = append(found, "a "+string(n.Role.Value))
		}
	}
	return found, nil
}

// look is a way to look at a page.
type look struct {
	name          string
	width, height int64
	phone         bool
	scheme        string // of prefers-color-scheme
}

const phoneWidth = 390

var looks = []look{
	{"desktop-light", 1280, 800, false, "light"},
	{"desktop-dark", 1280, 800, false, "dark"},
	{"phone", phoneWidth, 844, true, "light"},
}

// set makes the tab look so.
func (t *tab) set(l look) error {
	if _, err := chromedp.Call(t.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: l.width, Height: l.height, DeviceScaleFactor: 1, Mobile: l.phone,
	}); err != nil {
		return err
	}
	if _, err := chromedp.Call(t.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: l.scheme}},
	}); err != nil {
		return err
	}
	// Two frames later all is laid out and painted.
	_, err := read[bool](t, `new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))`)
	return err
}

// exception is an uncaught error's text.
func exception(d *runtime.ExceptionDetails) string {
	if d.Exception != nil && d.Exception.Description != "" {
		return d.Exception.Description
	}
	return d.Text
}
