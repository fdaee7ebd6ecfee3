//! The configurations for common servers in docs/upstreams.md, each with a server that behaves as that one does.

use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_testkit::Setup;
use serde_json::json;

const PAGE: &str = include_str!("../../../../docs/upstreams.md");

/// A section of the page.
struct Preset {
    server: &'static str,
    /// The `[[accounts]]` in it.
    account: String,
}

fn presets() -> Vec<Preset> {
    let sections = PAGE.split("\n## ").skip(1).filter(|section| section.contains("[[accounts]]"));
    let presets = sections.map(|section| {
        let server = section.lines().next().unwrap();
        let code = section.lines().skip_while(|line| !line.contains("[[accounts]]"));
        let code = code.take_while(|line| !line.starts_with("```"));
        Preset { server, account: code.map(|line| format!("{line}\n")).collect() }
    });
    presets.collect()
}

/// The path that turns go to, and what the server is like.
fn expected(server: &str) -> (&'static str, Options) {
    let owned_by = |owner: &str| Options { owned_by: owner.to_owned(), ..Options::default() };
    let chat_only = Options { responses: false, ..Options::default() };
    match server {
        "Ollama" => (
            "/chat/completions",
            Options { ollama_version: Some("0.13.3".to_owned()), ..owned_by("library") },
        ),
        "llama.cpp" => ("/chat/completions", owned_by("llamacpp")),
        "vLLM" => ("/responses", owned_by("vllm")),
        "LM Studio" => ("/responses", owned_by("organization_owner")),
        "OpenRouter" | "LiteLLM" => ("/chat/completions", chat_only),
        "Azure OpenAI" => ("/responses", Options { lists_models: false, ..Options::default() }),
        server => panic!("what does {server} speak?"),
    }
}

/// The account, at another address and with a name of ours for its model.
fn at(upstream: &Simulator, account: &str) -> String {
    let lines =
        account.lines().filter(|line| *line != "[[accounts]]").map(|line| match line.split_once(" = ") {
            Some(("base_url", _)) => format!("base_url = \"{}\"\n", upstream.url()),
            _ => format!("{line}\n"),
        });
    lines.collect()
}

#[tokio::test]
async fn each_server_of_the_page_serves_a_turn_with_its_configuration() {
    let presets = presets();
    assert_eq!(presets.len(), 7);
    for Preset { server, account } in presets {
        let (path, options) = expected(server);
        let upstream = Simulator::bind(options).await.unwrap();
        let has_api = account.contains("\napi = ");
        // The address tells that it is Azure.
        let api = match server {
            "Azure OpenAI" => "api = \"responses\"\n",
            _ if has_api => "",
            _ => "api = \"auto\"\n",
        };
        let setup = Setup::of_account(&format!("{}{api}", at(&upstream, &account)));
        let keys =
            ["OPENROUTER_API_KEY", "LITELLM_KEY", "AZURE_KEY", "VLLM_KEY"].map(|name| (name, "sk-test-0123"));
        let gateway = setup.environment(&keys).start().await;
        let model = if account.contains("\"gpt-5\"") { "gpt-5" } else { "sim" };
        gateway.client.created(json!({"model": model, "input": "x"})).await;
        let turn = upstream.last_request().unwrap();
        assert_eq!(turn.path, format!("/v1{path}"), "{server}");
        let names_key = account.contains("_KEY\"");
        let has_key = ["authorization", "api-key"].iter().any(|name| turn.headers.contains_key(*name));
        assert_eq!(has_key, names_key, "{server}");
    }
}
